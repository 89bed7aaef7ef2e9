"""docs/performance.md, section by section."""
