"""What PromQL expressions ask of the metrics that there are: their names and their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import promql_parser as promql

Labels = frozenset[str]

TARGET: Final[Labels] = frozenset({"job", "instance"})
"""What Prometheus adds to every sample."""

_SETS: Final = {"and", "unless", "or"}


class Inspection:
    """Walks expressions and notes what they ask for in vain.

    Args:
        metrics: the names of all series and their labels, without those of the target.

    Attributes:
        complaints: what was asked for in vain, for people.
    """

    def __init__(self, metrics: Mapping[str, Iterable[str]]) -> None:
        self._metrics = {name: TARGET.union(labels) for name, labels in metrics.items()}
        self.complaints: list[str] = []

    def record(self, name: str, expression: str) -> None:
        """Take a recording rule's series for one that there is."""
        self._metrics[name] = self.labels(expression)

    def labels(self, expression: str) -> Labels:
        """Return the labels that the result of an expression may have."""
        return self._labels(promql.parse(expression))

    def _labels(self, node: promql.Expr) -> Labels:
        match node:
            case promql.VectorSelector() | promql.MatrixSelector():
                return self._selected(node)
            case promql.AggregateExpr():
                return self._aggregated(node)
            case promql.BinaryExpr():
                return self._combined(node)
            case promql.Call():
                return self._called(node)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self._labels(node.expr)
            case _:
                assert isinstance(node, promql.NumberLiteral | promql.StringLiteral)
                return frozenset()

    def _selected(self, node: promql.VectorSelector | promql.MatrixSelector) -> Labels:
        selector = node if isinstance(node, promql.VectorSelector) else node.vector_selector
        name = selector.name or ""
        if name not in self._metrics:
            self.complaints.append(f"there is no metric {name}")
            return frozenset()
        labels = self._metrics[name]
        self._want((matcher.name for matcher in selector.matchers.matchers), labels, selector)
        return labels

    def _aggregated(self, node: promql.AggregateExpr) -> Labels:
        inner = self._labels(node.expr)
        if node.modifier is None:
            return frozenset()
        assert node.modifier.type == promql.AggModifierType.By
        self._want(node.modifier.labels, inner, node)
        return frozenset(node.modifier.labels)

    def _combined(self, node: promql.BinaryExpr) -> Labels:
        left, right = self._labels(node.lhs), self._labels(node.rhs)
        operator = str(node.op)
        number = isinstance(node.lhs, promql.NumberLiteral) or isinstance(node.rhs, promql.NumberLiteral)
        modifier = node.modifier
        matching = modifier.matching if modifier else None
        if matching is not None:
            assert matching.type == promql.LabelModifierType.Include
            self._want(matching.labels, left & right, node)
        if number or operator == "or":
            return left | right
        if operator in _SETS:
            return left
        if modifier is not None and modifier.group_labels is not None:
            assert modifier.card == promql.VectorMatchCardinality.ManyToOne
            self._want(modifier.group_labels, right, node)
            return left.union(modifier.group_labels)
        return left & right

    def _called(self, node: promql.Call) -> Labels:
        inner = frozenset[str]().union(*(self._labels(argument) for argument in node.args))
        texts = [argument.val for argument in node.args if isinstance(argument, promql.StringLiteral)]
        match node.func.name:
            case "label_replace":
                target, _, origin, _ = texts
                self._want([origin], inner, node)
                return inner | {target}
            case "histogram_quantile":
                self._want(["le"], inner, node)
                return inner - {"le"}
            case "absent":
                return frozenset()
            case _:
                return inner

    def _want(self, labels: Iterable[str], there: Labels, where: promql.Expr) -> None:
        missing = sorted(set(labels) - there)
        if missing:
            self.complaints.append(f"no label {', '.join(missing)} in {where.prettify()}")
