"""``plan``: memory, bytes, time and hours of a job before it is submitted."""
