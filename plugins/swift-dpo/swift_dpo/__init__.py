"""Task types for preference optimisation: ``dpo``, ``cpo``, ``simpo``, ``orpo`` and ``kto``."""

__version__ = "0.1.0"
