"""docs/evidence/performance.md, section by section."""
