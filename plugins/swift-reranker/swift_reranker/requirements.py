from __future__ import annotations


def data_faults(records, name, *, of_teacher):
    return [], None
