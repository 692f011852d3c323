"""``swift new``: a package for a task type or an extension, written from templates.

The templates are files of this package; ``module/`` and ``dot_`` in their paths stand for the module's name
and a dot, and ``@@name`` in them for what :mod:`swift_core.new.filling` fills in.
"""
