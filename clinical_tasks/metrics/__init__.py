"""The official metrics, as pure functions of documents, labels and texts."""
