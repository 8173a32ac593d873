"""Finds the operations of a SavedModel that are not on the allow list. It reads the file and runs nothing.

TensorFlow has no sandbox: a graph can write every file that its server can write
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

_INITIALIZER_KEYS = ("saved_model_main_op", "legacy_init_op")  # collections of operations that run after loading
_INITIALIZER_SIGNATURE = "__saved_model_init_op"


class UnreadableGraphError(Exception):
    """The folder does not contain one graph that every server would load."""


class Operation(NamedTuple):
    """An operation in a place where it is not allowed.

    Attributes:
      name: TensorFlow's name, such as `WriteFile`.
      place: The signature that reaches it, and the function that contains it.
    """

    name: str
    place: str


def read(export_dir: str) -> saved_model_pb2.SavedModel:
    """Reads the graph of a SavedModel.

    Raises:
      UnreadableGraphError: If `saved_model.pb` is missing, damaged, or not the only graph file.
    """
    names = [name for name in tf.io.gfile.listdir(export_dir) if name.startswith("saved_model.")]
    if names != ["saved_model.pb"]:
        # Given several files, loaders differ in their choice.
        raise UnreadableGraphError(
            f"saved_model.pb must be the only graph file; the folder contains: {', '.join(sorted(names)) or 'none'}"
        )
    with tf.io.gfile.GFile(os.path.join(export_dir, names[0]), "rb") as file:
        try:
            return saved_model_pb2.SavedModel.FromString(file.read())
        except DecodeError:
            raise UnreadableGraphError("saved_model.pb is damaged") from None


def not_allowed(saved_model: saved_model_pb2.SavedModel, allowed: Collection[str] = ()) -> list[Operation]:
    """Finds every operation that is not allowed in its place.

    The walk starts at the outputs of every signature, at the initialisation and at the saver, and follows all inputs
    and called functions. It then checks the rest of the graph, since other loaders may run it.

    Args:
      saved_model: From `read`.
      allowed: Names of further operations that are allowed everywhere.

    Returns:
      Each operation once, with the first place.
    """
    refused: dict[str, Operation] = {}
    for meta_graph in saved_model.meta_graphs:
        for operation in _Walk(meta_graph, frozenset(allowed)).refused():
            refused.setdefault(operation.name, operation)
    return list(refused.values())


class _Scope(NamedTuple):
    """A graph or the body of a function.

    Attributes:
      function: Name of the function; empty for the graph.
      variables_file: Tensor with the path of the model's own variables; empty except in their saver.
    """

    function: str
    variables_file: str


class _Walk:
    """One graph, and the nodes and functions that were visited."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef, allowed: frozenset[str]) -> None:
        self._meta_graph = meta_graph
        self._always = COMPUTING | allowed
        self._functions: dict[str, function_pb2.FunctionDef] = {
            function.signature.name: function for function in meta_graph.graph_def.library.function
        }
        # The functions that SymbolicGradient runs.
        self._gradients = {
            gradient.function_name: gradient.gradient_func for gradient in meta_graph.graph_def.library.gradient
        }
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._seen_nodes: set[str] = set()
        self._seen_functions: set[str] = set()

    def refused(self) -> Iterator[Operation]:
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
        yield from self._visit(rest, _Scope("", ""), "graph, reached by no signature", PREPARING)
        for name in self._functions:
            if name not in self._seen_functions:
                yield from self._call([_Scope(name, "")], "reached by no signature", PREPARING)

    def _from(
        self, tensors: Iterable[str], place: str, extra: frozenset[str], variables_file: str = ""
    ) -> Iterator[Operation]:
        """Visits everything that has to run for these tensors or operations."""
        pending = [_node_of(tensor) for tensor in tensors if tensor]
        reached: dict[str, node_def_pb2.NodeDef] = {}
        while pending:
            name = pending.pop()
            if name not in reached and name in self._nodes:
                reached[name] = self._nodes[name]
                pending.extend(_node_of(tensor) for tensor in self._nodes[name].input)
        self._seen_nodes |= set(reached)
        yield from self._visit(reached.values(), _Scope("", variables_file.removesuffix(":0")), place, extra)

    def _visit(
        self, nodes: Iterable[node_def_pb2.NodeDef], scope: _Scope, place: str, extra: frozenset[str]
    ) -> Iterator[Operation]:
        """Visits these nodes and the functions that they call."""
        called: list[_Scope] = []
        yield from self._check(nodes, scope, place, extra, called)
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
            yield from self._check(body, scope, place, extra, called)

    def _check(
        self,
        nodes: Iterable[node_def_pb2.NodeDef],
        scope: _Scope,
        place: str,
        extra: frozenset[str],
        called: list[_Scope],
    ) -> Iterator[Operation]:
        """Yields the operations that are not allowed; adds the functions that these nodes call to `called`."""
        place = f"{place}, function `{scope.function}`" if scope.function else place
        for node in nodes:
            # Only output 0: another output of the same operation is another path.
            first = node.input[0].removesuffix(":0") if node.input else ""
            reads_variables_file = bool(first) and first == scope.variables_file
            for name in self._functions_of(node):
                arguments = self._functions[name].signature.input_arg
                called.append(_Scope(name, arguments[0].name if reads_variables_file and arguments else ""))
            if node.op in self._functions or node.op in self._always:
                continue
            if node.op not in extra:
                yield Operation(node.op, place)
            elif node.op in RESTORING and not reads_variables_file:
                yield Operation(node.op, f"{place}, reading a file other than the model's variables")

    def _functions_of(self, node: node_def_pb2.NodeDef) -> list[str]:
        names = [node.op, *(name for value in node.attr.values() for name in _functions_in(value))]
        names += [self._gradients[name] for name in names if name in self._gradients]
        return [name for name in names if name in self._functions]


def _tensors(info: meta_graph_pb2.TensorInfo) -> list[str]:
    """Names the tensors of an output: one, the three of a sparse tensor, or those of its components."""
    kind = info.WhichOneof("encoding")
    if kind == "coo_sparse":
        sparse = info.coo_sparse
        return [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    if kind == "composite_tensor":
        return [tensor for component in info.composite_tensor.components for tensor in _tensors(component)]
    return [info.name]


def _functions_in(value: attr_value_pb2.AttrValue) -> Iterator[str]:
    """Names the functions in an attribute, including those in the attributes of these functions."""
    for function in (value.func, *value.list.func):
        if function.name:
            yield function.name
            for inner in function.attr.values():
                yield from _functions_in(inner)


def _node_of(tensor: str) -> str:
    """`^name`, `name:0`, `name:output:0` → `name`."""
    return tensor.removeprefix("^").partition(":")[0]
