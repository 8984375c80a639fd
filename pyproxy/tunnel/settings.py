"""The times and bounds of tunnels."""

import msgspec


class TunnelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds > 0.

    open_timeout_s: for all that it takes until a tunnel is connected.
    settle_s: how long to wait for a refusal, at a port that has not answered yet. The kubelet
    connects to the pod only after it has accepted the tunnel; that takes it milliseconds, however
    far away we are.
    answered_grace_s, owed_grace_s: a client's FIN is passed on once the pod has been silent for so
    long: the first when the pod spoke last, the second when the client did and is owed an answer.
    Not at once, because container runtimes know no half-close: a second after a FIN they close the
    pod's connection in both directions, and an answer that takes longer would be cut, in silence
    (containerd sandbox_portforward_linux.go portForward; CRI-O bidirectionalCopy).
    verdict_s: how long after the pod's FIN it may become known that it was no FIN but a failure.
    heartbeat_s: silence after which the server is asked for a sign of life, and how long that may
    take. kubectl asks every 10 s (client-go tunneling_dialer.go, PingPeriod).
    close_timeout_s: for the close handshake of a websocket.
    max_held_bytes: of one connection, on the way from the pod to a client that reads slowly.
    sessions_per_pod: each connection has a session of its own as long as there are fewer, and
    shares one when there are more: SPDY as Kubernetes speaks it has no flow control by stream, so a
    client that does not read stops all that share its session.
    connections_per_session: more than these open a further session after all.
    idle_session_s: how long a session without connections waits for the next.
    """

    open_timeout_s: float = 10.0
    settle_s: float = 0.05
    answered_grace_s: float = 0.5
    owed_grace_s: float = 10.0
    verdict_s: float = 0.25
    heartbeat_s: float = 10.0
    close_timeout_s: float = 1.0
    max_held_bytes: int = 256 * 1024
    sessions_per_pod: int = 8
    connections_per_session: int = 128
    idle_session_s: float = 60.0
