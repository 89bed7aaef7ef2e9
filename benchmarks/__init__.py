"""Side-by-side measurements. Never part of the tests; results are JSON with the machine that made them."""
