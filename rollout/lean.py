"""Starting processes sooner: what transformers imports and Rondo never uses."""


def import_transformers_lean() -> None:
    """Import transformers without scikit-learn, scipy and pandas: a quarter of its import time.

    They serve its assisted generation only, and are left out where it asks whether scikit-learn is installed. Has to
    come before a model class is imported.
    """
    import transformers.utils
    from transformers.utils import import_utils

    for module in (transformers.utils, import_utils):
        module.is_sklearn_available = lambda: False
