"""How programs on this machine find the local addresses: the hosts file, DNS, an env file."""
