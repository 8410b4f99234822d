"""The stages on Ray: actors started side by side, work dispatched bounded in flight, failures retried elsewhere."""
