import numpy as np
import pytest
import torch
from contract import (
    assert_bitwise,
    check_compiles,
    check_forked,
    guarded_outputs,
    implementations,
    native_array,
    opcheck,
    variants,
)

from asma_fast import Skeleton
from asma_fast._backends import native
from asma_fast.ops import joint_degree

IMPLEMENTATIONS = implementations()


def _degree(edges, joints):
    """Sets of neighbours, by hand."""
    neighbours = [set() for _ in range(joints)]
    for a, b in np.asarray(edges).tolist():
        if a != b:
            neighbours[a].add(b)
            neighbours[b].add(a)
    return np.array([len(others) for others in neighbours], dtype=np.int32)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("joints", [1, 3, 17, 25, 200])
def test_counts_distinct_neighbours(impl, joints):
    rng = np.random.default_rng(joints)
    edges = rng.integers(0, joints, (4 * joints, 2))  # with self-loops, duplicates and both directions
    for name, value in variants(edges):
        result = joint_degree(value, joints, impl=impl)
        assert isinstance(result, type(value)), name
        assert_bitwise(result, _degree(edges, joints), what=name)
    assert_bitwise(joint_degree(edges.astype(np.int32), joints, impl=impl), _degree(edges, joints))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_layout_has_its_skeletons_degree(impl):
    for name in Skeleton.names():
        skeleton = Skeleton.named(name)
        result = joint_degree(np.array(skeleton.edges), len(skeleton), impl=impl)
        assert_bitwise(result, skeleton.degree, what=name)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_graphs_without_edges_or_joints(impl):
    none = np.zeros((0, 2), np.int64)
    assert joint_degree(none, 3, impl=impl).tolist() == [0, 0, 0]
    assert joint_degree(torch.from_numpy(none), 0, impl=impl).shape == (0,)
    assert joint_degree(np.array([[1, 1]]), 2, impl=impl).tolist() == [0, 0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("edges", [[[0, 3]], [[-1, 0]], [[0, 1], [2**40, 0]]])
def test_an_edge_outside_the_graph_is_an_error(impl, edges):
    with pytest.raises(ValueError, match=r"edges must lie in \[0, 3\), got .*\d"):
        joint_degree(np.array(edges), 3, impl=impl)


@pytest.mark.parametrize(
    ("edges", "joints", "error", "message"),
    [
        (np.zeros((3,), np.int64), 3, ValueError, r"edges must have shape \(E, 2\), got \(3,\)"),
        (np.zeros((3, 3), np.int64), 3, ValueError, r"edges must have shape \(E, 2\), got \(3, 3\)"),
        (np.zeros((3, 2)), 3, TypeError, "edges must be int32 or int64, got float64"),
        ([[0, 1]], 3, TypeError, "edges must be a NumPy array or a torch tensor, got list"),
        (np.zeros((3, 2), np.int64), -1, ValueError, "joints must be at least 0, got -1"),
        (np.zeros((3, 2), np.int64), 2.0, TypeError, "joints must be an int, got float"),
    ],
)
def test_bad_input(edges, joints, error, message):
    with pytest.raises(error, match=message):
        joint_degree(edges, joints)


def test_torch_contract():
    edges = torch.tensor([[0, 1], [1, 2], [1, 0], [2, 2]])
    opcheck("joint_degree", edges, 4)
    check_compiles(joint_degree, [(edges, 4), (torch.cat([edges, edges + 2]), 9)])
    check_forked(lambda: joint_degree(edges, 4))


def test_outputs_are_written_whole_and_no_further():
    with guarded_outputs():
        assert joint_degree(torch.tensor([[0, 1]]), 5).tolist() == [1, 1, 0, 0, 0]


def test_the_native_entry_refuses_what_it_would_misread():
    edges, degree = np.zeros((3, 2), np.int64), np.zeros(4, np.int32)
    with pytest.raises(ValueError, match=r"edges must be dense, of shape \(E, 2\)"):
        native().joint_degree(native_array(edges.T), native_array(degree))
    with pytest.raises(ValueError, match=r"degree must be dense, of shape \(V,\)"):
        native().joint_degree(native_array(edges), native_array(degree[::2]))
