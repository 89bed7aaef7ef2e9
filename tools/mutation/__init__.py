"""How many faults the tests catch: small changes drawn at random from the source, each given to the tests that reach
its line.
"""
