"""Certificates for fake API servers and their clients."""

import ssl
from pathlib import Path

import trustme


class Tls:
    """A CA, and what it signs."""

    def __init__(self, directory: Path, name: str) -> None:
        self.ca = trustme.CA()
        self.ca_file = directory / f"{name}-ca.crt"
        self.ca.cert_pem.write_to_path(self.ca_file)

    def server(self, *names: str, clients: "Tls | None" = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            clients.ca.configure_trust(context)
        return context

    def client_files(self, directory: Path, name: str) -> dict[str, str]:
        issued = self.ca.issue_cert(f"{name}.example.com")
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.crt")
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
        return {"client-certificate": f"{name}.crt", "client-key": f"{name}.key"}
