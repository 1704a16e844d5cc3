"""What a program gets that has the router inside of it: against a port of the router, and against plain socket pairs."""
