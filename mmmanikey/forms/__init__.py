"""Forms: everything that exists for speed, and the rule of when it may run.

A form computes what plain code elsewhere computes, faster or with less memory. The
plain code is the definition; forms stand in for it where the rule in :mod:`.rule`
allows it, see :func:`find`. What exporters have to write otherwise is in
``exporting.py``, so that no other room asks who is looking at its operators.
"""

from .choice import Form, find, reasons, recorded, register, use

__all__ = ['Form', 'find', 'reasons', 'recorded', 'register', 'use']
