"""A process that serves the pocket model as a node, for tests of routers: prints its port, then its ed25519 address.

Free of charge, but the key `broke` has nothing left (402) and `busy` comes too often (429). Its first argument is
the node's home, its second the time of a token in seconds.
"""


