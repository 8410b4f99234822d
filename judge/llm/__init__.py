"""Language models as judges, behind any OpenAI-compatible endpoint."""
