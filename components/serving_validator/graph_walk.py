"""Which operations a SavedModel holds that are not on the list, and where. Reads the file; nothing of it is run.

TensorFlow has no sandbox: a graph may write any file that its server may write
(https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md, "TensorFlow models are programs").
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from components.serving_validator.graph_operations import COMPUTING, PREPARING, RESTORING, SAVING

_INITIALIZER_KEYS = ("saved_model_main_op", "legacy_init_op")  # collections that name what runs after loading
_INITIALIZER_SIGNATURE = "__saved_model_init_op"


class UnreadableGraphError(Exception):
    """The folder holds no graph that a server and this module would read alike."""


class Operation(NamedTuple):
    """An operation that is not allowed where it is.

    Attributes:
      name: As TensorFlow calls it, `WriteFile`.
      place: Through what it is reached, and the function in which it stands.
    """

    name: str
    place: str


def read(export_dir: str) -> saved_model_pb2.SavedModel:
    """Reads the graph of a SavedModel.

    Raises:
      UnreadableGraphError: If `saved_model.pb` is missing, damaged, or not the only file that may hold a graph.
    """
    names = [name for name in tf.io.gfile.listdir(export_dir) if name.startswith("saved_model.")]
    if names != ["saved_model.pb"]:
        # Loaders differ in which of several they prefer.
        raise UnreadableGraphError(
            f"saved_model.pb must be the only graph; found: {', '.join(sorted(names)) or 'none'}"
        )
    with tf.io.gfile.GFile(os.path.join(export_dir, names[0]), "rb") as file:
        try:
            return saved_model_pb2.SavedModel.FromString(file.read())
        except DecodeError:
            raise UnreadableGraphError("saved_model.pb is damaged") from None


def not_allowed(saved_model: saved_model_pb2.SavedModel, further: Collection[str] = ()) -> list[Operation]:
    """Finds every operation that the list does not allow where it is.

    The walk goes from the outputs of every signature, from the initialisation and from the saver through all inputs and
    called functions. What none of them reaches is looked at too, as other loaders may run it.

    Args:
      saved_model: From `read`.
      further: Names of operations that are allowed as well, wherever they are.

    Returns:
      Each operation once, where it was found first.
    """
    found: dict[str, Operation] = {}
    for meta_graph in saved_model.meta_graphs:
        for operation in _Walk(meta_graph, frozenset(further)).findings():
            found.setdefault(operation.name, operation)
    return list(found.values())


class _Scope(NamedTuple):
    """A graph or the body of a function.

    Attributes:
      function: Its name; empty for the graph.
      variables_file: The tensor that holds the path of the model's own variables; only their saver is given it.
    """

    function: str
    variables_file: str


class _Walk:
    """One graph, and what has been seen of it."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef, further: frozenset[str]) -> None:
        self._meta_graph = meta_graph
        self._always = COMPUTING | further
        self._functions: dict[str, function_pb2.FunctionDef] = {
            function.signature.name: function for function in meta_graph.graph_def.library.function
        }
        # What SymbolicGradient of a function runs.
        self._gradients = {
            gradient.function_name: gradient.gradient_func for gradient in meta_graph.graph_def.library.gradient
        }
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._seen_nodes: set[str] = set()
        self._seen_functions: set[str] = set()

    def findings(self) -> Iterator[Operation]:
        for name, signature in sorted(self._meta_graph.signature_def.items()):
            outputs = [tensor for info in signature.outputs.values() for tensor in _tensors(info)]
            if name == _INITIALIZER_SIGNATURE:
                yield from self._from(outputs, "initialisation", PREPARING)
            else:
                yield from self._from(outputs, f"signature `{name}`", frozenset())
        for key in _INITIALIZER_KEYS:
            yield from self._from(self._meta_graph.collection_def[key].node_list.value, "initialisation", PREPARING)
        saver = self._meta_graph.saver_def
        file = saver.filename_tensor_name
        yield from self._from([saver.restore_op_name], "saver", PREPARING | RESTORING, file)
        yield from self._from([saver.save_tensor_name], "saver", PREPARING | SAVING, file)
        rest = [node for name, node in self._nodes.items() if name not in self._seen_nodes]
        yield from self._look(rest, _Scope("", ""), "graph, reached by no signature", PREPARING)
        for name in self._functions:
            if name not in self._seen_functions:
                yield from self._call([_Scope(name, "")], "reached by no signature", PREPARING)

    def _from(
        self, tensors: Iterable[str], place: str, extra: frozenset[str], variables_file: str = ""
    ) -> Iterator[Operation]:
        """Everything that has to run for these tensors or operations."""
        pending = [_node_of(tensor) for tensor in tensors if tensor]
        reached: dict[str, node_def_pb2.NodeDef] = {}
        while pending:
            name = pending.pop()
            if name not in reached and name in self._nodes:
                reached[name] = self._nodes[name]
                pending.extend(_node_of(tensor) for tensor in self._nodes[name].input)
        self._seen_nodes |= set(reached)
        yield from self._look(reached.values(), _Scope("", variables_file.removesuffix(":0")), place, extra)

    def _look(
        self, nodes: Iterable[node_def_pb2.NodeDef], scope: _Scope, place: str, extra: frozenset[str]
    ) -> Iterator[Operation]:
        """These nodes, and the functions that they call."""
        called: list[_Scope] = []
        yield from self._refused(nodes, scope, place, extra, called)
        yield from self._call(called, place, extra)

    def _call(self, called: list[_Scope], place: str, extra: frozenset[str]) -> Iterator[Operation]:
        done: set[_Scope] = set()
        while called:
            scope = called.pop()
            if scope in done:
                continue
            done.add(scope)
            self._seen_functions.add(scope.function)
            body = self._functions[scope.function].node_def
            yield from self._refused(body, scope, place, extra, called)

    def _refused(
        self,
        nodes: Iterable[node_def_pb2.NodeDef],
        scope: _Scope,
        place: str,
        extra: frozenset[str],
        called: list[_Scope],
    ) -> Iterator[Operation]:
        """What may not be among these nodes; what they call is added to `called`."""
        where = f"{place}, function `{scope.function}`" if scope.function else place
        for node in nodes:
            # The tensor itself: another output of the same operation is another path.
            first = node.input[0].removesuffix(":0") if node.input else ""
            is_given_the_file = bool(first) and first == scope.variables_file
            for name in self._functions_of(node):
                arguments = self._functions[name].signature.input_arg
                called.append(_Scope(name, arguments[0].name if is_given_the_file and arguments else ""))
            if node.op in self._functions or node.op in self._always:
                continue
            if node.op not in extra:
                yield Operation(node.op, where)
            elif node.op in RESTORING and not is_given_the_file:
                yield Operation(node.op, f"{where}, of another file than the model's variables")

    def _functions_of(self, node: node_def_pb2.NodeDef) -> list[str]:
        names = [node.op, *(name for value in node.attr.values() for name in _functions_in(value))]
        names += [self._gradients[name] for name in names if name in self._gradients]
        return [name for name in names if name in self._functions]


def _tensors(info: meta_graph_pb2.TensorInfo) -> list[str]:
    """The tensors behind an output: one, three of a sparse one, or those of its components."""
    kind = info.WhichOneof("encoding")
    if kind == "coo_sparse":
        sparse = info.coo_sparse
        return [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    if kind == "composite_tensor":
        return [tensor for component in info.composite_tensor.components for tensor in _tensors(component)]
    return [info.name]


def _functions_in(value: attr_value_pb2.AttrValue) -> Iterator[str]:
    """Names of functions in an attribute, those that a function is given as its own attributes included."""
    for function in (value.func, *value.list.func):
        if function.name:
            yield function.name
            for inner in function.attr.values():
                yield from _functions_in(inner)


def _node_of(tensor: str) -> str:
    """`^name`, `name:0`, `name:output:0` → `name`."""
    return tensor.removeprefix("^").partition(":")[0]
