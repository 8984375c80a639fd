"""The soak: a real agent under mixed load, while everything around it goes wrong now and then.

docs/soak.md tells what it claims. The run is made of processes: the agent and its workers; the
endpoints; the clients; and the driver, which also is the API server and causes the trouble.
"""
