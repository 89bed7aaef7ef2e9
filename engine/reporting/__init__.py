"""``report``: several runs' results as one HTML file and Markdown."""
