"""Forms: everything that exists for speed, and nothing else.

A form computes what plain code elsewhere computes, faster or with less memory. The
plain code is the definition; forms stand in for it where the rule in :mod:`.rule`
allows it, see :func:`find`.
"""

from .choice import Form, find, reasons, recorded, register, use

__all__ = ['Form', 'find', 'reasons', 'recorded', 'register', 'use']
