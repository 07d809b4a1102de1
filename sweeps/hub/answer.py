"""GraphQL without a schema: every field is looked up by its name in plain dicts.

The W&B client asks for more fields with every version. A field that is not known here is null; a
root field that is not known is refused.
"""

from collections.abc import Callable, Iterator
from typing import Any

from graphql import (
    DocumentNode,
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
    """A request that the hub refuses.

    Args:
        message: error message for the client.
        status: HTTP status below 500.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


Arguments = dict[str, Any]
"""Name -> value of the arguments of a field."""
Roots = dict[str, Callable[[Arguments], Any]]
"""Name of a root field -> function of its arguments."""


def answer(query: str, variables: dict[str, Any], roots: Roots) -> dict[str, Any]:
    """The data of one operation.

    A value that is a function is called with the field's arguments, or with the fields of its
    argument `input` if it has one.

    Args:
        query: GraphQL text.
        variables: values of the operation's variables.
        roots: functions of the root fields.

    Raises:
        Refused: the text is not GraphQL, or asks for a root field that the hub does not know.
    """
    try:
        document = parse(query)
    except GraphQLError as error:
        raise Refused(f"not GraphQL: {error.message}") from None
    operation = _operation(document)
    # A variable that the client sends replaces its default value.
    values = {**_default_values(operation), **variables}
    resolver = _Resolver(_fragments(document), values)
    names = [node.name.value for node in resolver.fields(operation.selection_set)]
    unknown = [name for name in names if name not in roots]
    if unknown:
        raise Refused(f"the hub does not know {', '.join(unknown)}")
    return resolver.resolve(roots, operation.selection_set)


def _operation(document: DocumentNode) -> OperationDefinitionNode:
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            return definition
    raise Refused("no operation in the query")


def _fragments(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    fragments = {}
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            fragments[definition.name.value] = definition
    return fragments


def _default_values(operation: OperationDefinitionNode) -> dict[str, Any]:
    """Default values of an operation's variables."""
    defaults = {}
    for definition in operation.variable_definitions or ():
        if definition.default_value is not None:
            name = definition.variable.name.value
            defaults[name] = value_from_ast_untyped(definition.default_value)
    return defaults


class _Resolver:
    """Looks up the fields of an operation.

    Args:
        fragments: named fragments of the document.
        variables: values of the operation's variables.
    """

    def __init__(self, fragments: dict[str, FragmentDefinitionNode], variables: dict[str, Any]):
        self.fragments = fragments
        self.variables = variables

    def fields(self, selection: SelectionSetNode) -> Iterator[FieldNode]:
        """Fields of a selection, fragments resolved."""
        for node in selection.selections:
            if isinstance(node, FieldNode):
                yield node
            # Types are not checked, so every fragment applies.
            elif isinstance(node, FragmentSpreadNode):
                yield from self.fields(self.fragments[node.name.value].selection_set)
            elif isinstance(node, InlineFragmentNode):
                yield from self.fields(node.selection_set)

    def resolve(self, value: Any, selection: SelectionSetNode | None) -> Any:
        """The selected fields of a value."""
        if value is None or selection is None:
            return value
        if isinstance(value, list):
            return [self.resolve(item, selection) for item in value]
        resolved = {}
        for node in self.fields(selection):
            # Under an alias the same field may be asked for with several arguments.
            key = (node.alias or node.name).value
            resolved[key] = self._resolve_field(node, value)
        return resolved

    def _resolve_field(self, node: FieldNode, parent: dict[str, Any]) -> Any:
        value = parent.get(node.name.value)
        if callable(value):
            arguments = self._arguments(node)
            value = value(_without_undefined(arguments.get("input", arguments)))
        return self.resolve(value, node.selection_set)

    def _arguments(self, node: FieldNode) -> Arguments:
        arguments = {}
        for argument in node.arguments or ():
            value = value_from_ast_untyped(argument.value, self.variables)
            arguments[argument.name.value] = value
        return arguments


def _without_undefined(arguments: Any) -> Any:
    """Leave out the arguments whose variables the client has left out."""
    if not isinstance(arguments, dict):
        return arguments
    defined = {}
    for name, value in arguments.items():
        if value is not Undefined:
            defined[name] = _without_undefined(value)
    return defined


def connection(nodes: list[Any], arguments: Arguments | None = None) -> dict[str, Any]:
    """A page of a list, in the format of GraphQL connections.

    Args:
        nodes: the whole list.
        arguments: `after`, the cursor at which the page begins, and `first`, its largest size.
    """
    arguments = arguments or {}
    # A cursor is the number of nodes up to and including its own.
    begin = int(arguments.get("after") or 0)
    end = begin + int(arguments.get("first") or len(nodes))
    end = min(len(nodes), end)
    edges = []
    for index in range(begin, end):
        edges.append({"node": nodes[index], "cursor": str(index + 1)})
    page = {"__typename": "PageInfo", "hasNextPage": end < len(nodes), "endCursor": str(end)}
    return {"edges": edges, "totalCount": len(nodes), "pageInfo": page}
