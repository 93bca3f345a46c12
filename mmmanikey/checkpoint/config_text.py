"""The backbone's config in the text that mmengine's trainings leave in a checkpoint.

mmengine reads such a text by running it as Python. Checkpoints come from strangers, so
here it is parsed, and values are taken from literals and ``dict(...)`` alone.
"""

import ast
from collections.abc import Iterator, Mapping

#: What parsing a stranger's text may raise.
PARSING_ERRORS = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


def backbone_config(meta: object) -> dict | None:
    """The config of ``model.backbone`` in a checkpoint's meta.

    Args:
        meta (object): What the checkpoint holds under ``meta``; the config is the text
            under ``cfg``.

    Returns:
        dict | None: The config. None if there is none, or more than literals.
    """
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        return None
    try:
        for statement in reversed(ast.parse(text).body):
            if isinstance(statement, ast.Assign) and names(statement) == ['model']:
                found = dict(items(statement.value)).get('backbone')
                config = None if found is None else literal(found)
                return config if isinstance(config, dict) else None
    except PARSING_ERRORS:
        pass
    return None


def names(statement: ast.Assign) -> list[str | None]:
    """Names that a statement assigns to."""
    return [getattr(target, 'id', None) for target in statement.targets]


def items(node: ast.expr) -> Iterator[tuple[object, ast.expr]]:
    """Keys and values of ``{...}``, ``dict(a=1)``, ``dict({...})``, ``dict(**{...})``.

    Raises:
        ValueError: If the node is something else.
    """
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values):
            if key is None:  # **{...}
                yield from items(value)
            else:
                yield literal(key), value
        return
    if not isinstance(node, ast.Call) or getattr(node.func, 'id', None) != 'dict':
        raise ValueError('neither dict(...) nor {...}')
    for mapping in node.args:
        yield from items(mapping)
    for keyword in node.keywords:
        if keyword.arg is None:
            yield from items(keyword.value)
        else:
            yield keyword.arg, keyword.value


def literal(node: ast.expr) -> object:
    """The value of a literal, of ``dict(...)``, or of lists and tuples of them."""
    if isinstance(node, (ast.Dict, ast.Call)):
        return {key: literal(value) for key, value in items(node)}
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [literal(value) for value in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)
