"""Fixtures of several files."""

from tests.engine import cached_corpora

corpora, config, layout, run = (
    cached_corpora.corpora,
    cached_corpora.config,
    cached_corpora.layout,
    cached_corpora.run,
)
