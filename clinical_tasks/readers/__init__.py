"""One reader per release format. A reader takes the files of a split, the card and the task's folder, and returns or
yields documents.

To add one: write the function, name it in `READERS`, give it a version in `READER_VERSIONS` (registry.py), and state
which `reader_options` it knows in `READER_OPTIONS` (options.py).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
