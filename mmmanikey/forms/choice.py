"""Which form runs: registered for a class of modules, found for one call.

A module whose plain code may have a faster stand-in asks once per call:

.. code-block:: python

    form = forms.find(self, x)
    if form is not None:
        return form(self, x)
    ...  # the plain code

``forms.use('plain')``, or the environment variable ``MMMANIKEY_FORMS=plain``, switches
all of them off.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

from mmengine.logging import MMLogger
from torch import Tensor, nn

from .rule import is_compiling, why_changed, why_watched

CHOICES = ('fast', 'plain')
#: Forms of each class of modules, the fastest first.
FORMS: dict[type, list['Form']] = {}
#: Decisions that were logged: class, form and reasons, which name no input's size.
LOGGED: set[tuple] = set()
#: Lists that decisions are added to.
RECORDS: list[list['Decision']] = []


class Form(ABC):
    """A faster computation of what modules of one class compute."""

    #: Name in logs and tables.
    name: str
    #: Whether it is made of PyTorch's own differentiable operators alone, so that
    #: tracers, transforms and second derivatives work on it. It still reads weights
    #: of modules that it does not call.
    transparent = False
    #: Layers inside the module whose weights it reads or whose work it does without
    #: calling them, and the classes that each may be of exactly; those that a module
    #: does not have are left out.
    replaces: ClassVar[dict[str, type | tuple[type, ...]]] = {}

    def __init__(self) -> None:
        #: Of :attr:`replaces`: the path, its names, and the forward of each class.
        self.layers: list[tuple[str, list[str], dict[type, Callable]]] = []
        for path, classes in self.replaces.items():
            classes = classes if isinstance(classes, tuple) else (classes,)
            forwards = {cls: cls.forward for cls in classes}
            self.layers.append((path, path.split('.'), forwards))

    def why_replaced(self, module: nn.Module) -> str | None:
        """Why a layer must be called: it or its class is another one. None if none."""
        for path, names, forwards in self.layers:
            layer = module
            for name in names:
                inside = getattr(layer, '_modules', {})
                layer = inside[name] if name in inside else vars(layer).get(name)
                if layer is None:
                    break
            else:
                cls = type(layer)
                if cls not in forwards:
                    return f'{path} is a {cls.__name__}'
                if cls.forward is not forwards[cls]:
                    return f'the forward of {cls.__name__} was replaced'
        return None

    def why_slow(self, module: nn.Module, *inputs: object) -> str | None:
        """Why something else is faster for these inputs, or None if nothing is.

        Asked first, as it takes less time than looking inside, and so of modules in
        which any layer may be another one.
        """
        return None

    def why_not(self, module: nn.Module, *inputs: object) -> str | None:
        """Why the form does not serve these inputs, or None if it does."""
        return None

    @abstractmethod
    def __call__(self, module: nn.Module, *inputs: object) -> Tensor:
        """Compute what the plain code of ``module`` would."""


def register(*classes: type) -> type:
    """Class decorator: try the form for modules of exactly these classes.

    A subclass may compute something else, so it is not served. Forms are tried in the
    order in which they were registered.
    """

    def decorate(form: type) -> type:
        for cls in classes:
            FORMS.setdefault(cls, []).append(form())
        return form

    return decorate


def checked_choice(name: str, source: str) -> str:
    """Return ``name``, or raise ValueError unless it is one of :data:`CHOICES`."""
    if name not in CHOICES:
        raise ValueError(f"{source} must be 'fast' or 'plain', got {name!r}")
    return name


choice = checked_choice(os.environ.get('MMMANIKEY_FORMS', 'fast'), 'MMMANIKEY_FORMS')


@contextmanager
def use(name: str) -> Iterator[None]:
    """Let all forms run where they apply ('fast'), or none of them ('plain').

    Args:
        name (str): 'fast' or 'plain'. Holds for all threads of the process.

    Raises:
        ValueError: If it is neither.
    """
    global choice
    before, choice = choice, checked_choice(name, 'forms')
    try:
        yield
    finally:
        choice = before


def find(module: nn.Module, *inputs: object, within: bool = False) -> Form | None:
    """The form that stands in for ``module``'s plain code in this call, if one may.

    Args:
        module (nn.Module): The module that asks.
        *inputs (object): What it was called with.
        within (bool): Whether a form was found for a module around it in this call:
            what is inside and who is watching is known then. Defaults to False.

    Returns:
        Form | None: To be called with the same arguments; None for the plain code.
    """
    refused = {}
    for form, reason in reasons(module, *inputs, within=within):
        if reason is None:
            break
        refused[form.name] = reason
    else:
        form = None
    if not is_compiling():
        note(Decision(module, 'plain' if form is None else form.name, refused))
    return form


def reasons(
    module: nn.Module, *inputs: object, within: bool = False
) -> Iterator[tuple[Form, str | None]]:
    """The forms of a module's class, and why each may not run; None where it may."""
    forms = FORMS.get(type(module))
    if not forms:
        return
    known, changed, watched = within, None, None
    for form in forms:
        off = 'forms are switched off' if choice == 'plain' else None
        reason = off or form.why_slow(module, *inputs)
        if reason is None:
            if not known:
                changed, watched = why_changed(module), why_watched(*inputs)
                known = True
            reason = changed or (None if form.transparent else watched)
            reason = reason or form.why_replaced(module)
            reason = reason or form.why_not(module, *inputs)
        yield form, reason


class Decision(NamedTuple):
    """What ``find`` answered.

    Args:
        module (nn.Module): Who asked.
        form (str): Name of the form, or 'plain'.
        refused (dict[str, str]): Why not a faster one, by its name.
    """

    module: nn.Module
    form: str
    refused: dict[str, str]

    def __str__(self) -> str:
        why = ''.join(f'; {name}: {reason}' for name, reason in self.refused.items())
        return f'{type(self.module).__name__}: {self.form}{why}'


def note(decision: Decision) -> None:
    """Keep a decision for :func:`recorded`; log it at debug level the first time."""
    for record in RECORDS:
        record.append(decision)
    said = type(decision.module), decision.form, *decision.refused.items()
    if said not in LOGGED:
        LOGGED.add(said)
        MMLogger.get_current_instance().debug(str(decision))


@contextmanager
def recorded() -> Iterator[list[Decision]]:
    """All decisions that are made inside, in their order."""
    record = []
    RECORDS.append(record)
    try:
        yield record
    finally:
        RECORDS[:] = [each for each in RECORDS if each is not record]
