"""The data plane: a listening socket for each frontend, and connections and flows to endpoints.

It is given a VIP table and knows nothing of where that came from. Nothing in here waits: every
socket is a raw non-blocking descriptor on one edge-triggered epoll (poller), because stream
transports cannot be trusted with half-close (uvloop 0.23 frees a shutdown request that libuv
still holds) and cost twice as much.
"""
