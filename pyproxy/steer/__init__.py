"""Making packets for the VIPs reach this host, and knowing its own addresses."""
