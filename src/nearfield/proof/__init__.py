"""Receipts: what a response was computed from, so that anyone with the model can compute it again, bit for bit."""
