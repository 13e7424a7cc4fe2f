"""What NEAR AI's clients and the NEAR chain expect of a provider: keys, signatures, encryption, usage, payment.

It stands in front of an engine as ASGI middleware and knows nothing of it but OpenAI's HTTP: Nearfield's own
server in one process, or any other over the network.
"""
