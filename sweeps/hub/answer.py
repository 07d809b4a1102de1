"""GraphQL without a schema: every field is looked up by its name in plain dicts.

The client asks for more fields with every version. One that is not known here is null, a root that is not is refused.
"""

from collections.abc import Callable, Iterator
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    parse,
)
from graphql.language import SelectionSetNode
from graphql.pyutils import Undefined
from graphql.utilities import value_from_ast_untyped


class Refused(Exception):
    """Error message for the client, with an HTTP status below 500."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


Roots = dict[str, Callable[[dict[str, Any]], Any]]


def answer(query: str, variables: dict[str, Any], roots: Roots) -> dict[str, Any]:
    """The data of one operation.

    A value that is a function takes the field's arguments, or those within its argument `input`.

    Raises:
        Refused: no GraphQL, or a root that the hub has not.
    """
    try:
        document = parse(query)
    except GraphQLError as error:
        raise Refused(f"not GraphQL: {error.message}") from None
    operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    if not operations:
        raise Refused("no operation in the query")
    fragments = {
        d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)
    }
    defaults = {
        d.variable.name.value: value_from_ast_untyped(d.default_value)
        for d in operations[0].variable_definitions or ()
        if d.default_value is not None
    }
    reading = _Reading(fragments, {**defaults, **variables})
    unknown = [
        f.name.value
        for f in reading.fields(operations[0].selection_set)
        if f.name.value not in roots
    ]
    if unknown:
        raise Refused(f"the hub does not know {', '.join(unknown)}")
    return reading.value(roots, operations[0].selection_set)


class _Reading:
    def __init__(self, fragments: dict[str, FragmentDefinitionNode], variables: dict[str, Any]):
        self.fragments, self.variables = fragments, variables

    def fields(self, selection: SelectionSetNode) -> Iterator[FieldNode]:
        for node in selection.selections:
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, FragmentSpreadNode):
                yield from self.fields(self.fragments[node.name.value].selection_set)
            elif isinstance(node, InlineFragmentNode):
                yield from self.fields(node.selection_set)

    def value(self, found: Any, selection: SelectionSetNode | None) -> Any:
        if found is None or selection is None:
            return found
        if isinstance(found, list):
            return [self.value(item, selection) for item in found]
        return {(f.alias or f.name).value: self.field(f, found) for f in self.fields(selection)}

    def field(self, node: FieldNode, parent: dict[str, Any]) -> Any:
        found = parent.get(node.name.value)
        if callable(found):
            given = {
                a.name.value: value_from_ast_untyped(a.value, self.variables)
                for a in node.arguments or ()
            }
            found = found(_given(given.get("input", given)))
        return self.value(found, node.selection_set)


def _given(arguments: Any) -> Any:
    """Without the variables that the client has left out."""
    if isinstance(arguments, dict):
        return {name: _given(value) for name, value in arguments.items() if value is not Undefined}
    return arguments


def connection(nodes: list[Any], arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """A page of a list, as GraphQL has it."""
    given = arguments or {}
    begin = int(given.get("after") or 0)
    end = min(len(nodes), begin + int(given.get("first") or len(nodes)))
    edges = [
        {"node": node, "cursor": str(begin + i + 1)} for i, node in enumerate(nodes[begin:end])
    ]
    page = {"__typename": "PageInfo", "hasNextPage": end < len(nodes), "endCursor": str(end)}
    return {"edges": edges, "totalCount": len(nodes), "pageInfo": page}
