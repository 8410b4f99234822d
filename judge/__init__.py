"""Judge: completions in, preference pairs out."""
