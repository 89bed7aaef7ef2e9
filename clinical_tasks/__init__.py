"""From released clinical corpora to text pairs and back to official metrics.

A *task card* (YAML) says where a corpus lies and how it is written; nothing here knows about models. No text of a note
is ever printed or put into an error: messages name file, line, key, reason and fix.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
