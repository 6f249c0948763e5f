import math

import numpy as np
import pytest

from asma_fast import Skeleton

LAYOUTS = Skeleton.names()
JOINTS = {
    "ntu-rgb+d": 25, "ntu-rgb+d-pyskl": 25, "kinect-v1": 20, "utd-mhad": 20, "sbu": 15, "common-15": 15, "coco": 17,
    "openpose": 18, "mediapipe": 33,
}  # fmt: skip


def _graph(edges, count, centre, strategy):
    """ST-GCN's Graph class with max_hop 1, joint by joint, as its published code behaves (the paper's text differs).

    The code counts hops up to max_hop only and leaves the rest infinite, so joints two and more hops from the centre
    are all "as far" as each other; and within one hop it joins the equally far to the farther ones. It writes
    A[k, j, i] for what carries joint j to joint i. For a virtual centre the hop count is that of the nearest of its
    joints.
    """
    linked = [[i == j or (i, j) in edges or (j, i) in edges for j in range(count)] for i in range(count)]
    hop = [[0 if i == j else 1 if linked[j][i] else math.inf for i in range(count)] for j in range(count)]
    column = [sum(linked[j][i] for j in range(count)) for i in range(count)]
    from_centre = [min(hop[c][i] for c in centre) for i in range(count)]

    parts = {"uniform": 1, "distance": 2, "spatial": 3}[strategy]
    matrices = np.zeros((parts, count, count))
    for j in range(count):
        for i in range(count):
            if not linked[j][i]:
                continue
            if strategy == "uniform":
                k = 0
            elif strategy == "distance":
                k = int(hop[j][i])
            elif hop[j][i] == 0:
                k = 0
            else:
                k = 1 if from_centre[j] >= from_centre[i] else 2
            matrices[k, j, i] = 1 / column[i]
    return matrices


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("partition", ["spatial", "distance", "uniform"])
def test_adjacency_is_that_of_st_gcn(name, partition):
    skeleton = Skeleton.named(name)
    expected = _graph(set(skeleton.edges), len(skeleton), skeleton.centre, partition)
    adjacency = skeleton.adjacency(partition)
    assert adjacency.dtype == np.float32
    np.testing.assert_array_equal(adjacency, expected.astype(np.float32))
    np.testing.assert_array_equal(skeleton.pattern(partition), expected != 0)
    np.testing.assert_allclose(adjacency.sum(axis=(0, 1)), 1, rtol=1e-6)


def test_ntu_has_73_entries_and_known_degrees():
    skeleton = Skeleton.named("ntu-rgb+d")
    assert np.count_nonzero(skeleton.adjacency()) == 73
    assert skeleton.pattern().sum() == 73
    assert skeleton.degree.tolist().count(2) == 18
    assert skeleton.degree[20] == 4, "the spine at the shoulders: neck, both shoulders, spine mid"


def test_every_layout_has_its_number_of_joints():
    assert {name: len(Skeleton.named(name)) for name in LAYOUTS} == JOINTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_flip_exchanges_sides_and_keeps_the_graph(name):
    skeleton = Skeleton.named(name)
    flip = skeleton.flip
    np.testing.assert_array_equal(flip[flip], np.arange(len(skeleton)))
    assert all(
        ("left" in joint) == ("right" in skeleton.joints[other])
        for joint, other in zip(skeleton.joints, flip, strict=True)
    )
    linked = skeleton.adjacency("uniform")[0]
    np.testing.assert_array_equal(linked[flip][:, flip], linked)
    assert skeleton.shoulders is not None
    left, right = skeleton.shoulders
    assert flip[list(left)].tolist() == list(right)


@pytest.mark.parametrize("name", LAYOUTS)
def test_bones_are_edges_towards_the_centre(name):
    skeleton = Skeleton.named(name)
    bones, root = skeleton.bones, skeleton.centre[0]
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert bones[root] == root
    for joint, parent in enumerate(bones.tolist()):
        assert joint == root or frozenset((joint, parent)) in edges
    # Following parents reaches the root in as many steps as the graph's distance.
    hops = np.zeros(len(skeleton), int)
    for joint in range(len(skeleton)):
        at = joint
        while at != root:
            at, hops[joint] = bones[at], hops[joint] + 1
    for a, b in skeleton.edges:
        assert abs(hops[a] - hops[b]) <= 1


def test_left_of_every_layout_is_not_right():
    coco = Skeleton.named("coco")
    assert coco.joints[5] == "left shoulder"
    assert coco.flip[5] == 6
    assert Skeleton.named("openpose").joints[5] == "left shoulder"


def test_a_custom_skeleton_names_its_joints_and_centre():
    chain = Skeleton(edges=[(0, 1), (2, 1), (1, 2), (2, 2)], centre=1)
    assert chain.joints == ("joint0", "joint1", "joint2")
    assert chain.centre == (1,)
    assert chain.degree.tolist() == [1, 2, 1]
    assert chain.bones.tolist() == [1, 1, 1]
    assert chain.flip.tolist() == [0, 1, 2]
    assert Skeleton(edges=[]).adjacency("uniform").tolist() == [[[1.0]]]


def test_the_returned_matrices_are_the_callers_own():
    skeleton = Skeleton.named("sbu")
    skeleton.adjacency()[:] = 7
    assert skeleton.adjacency().max() <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edges": [(0, 1), (2, 3)]}, r"the graph must be connected; not reached from joint 0: \[2, 3\]"),
        ({"edges": [(0, 1)], "joints": ("a", "b", "c")}, r"must be connected; not reached from joint 0: \[2\]"),
        ({"edges": [(0, 2)], "joints": ("a", "b")}, r"edges must name joints in \[0, 2\), got 2"),
        ({"edges": [(0, -1)]}, r"edges must name joints in \[0, 1\), got -1"),
        ({"edges": [(0, 1)], "joints": ("a", "a")}, "joint names must be distinct"),
        ({"edges": [(0, 1)], "centre": (2,)}, "centre must name joints"),
        ({"edges": [(0, 1)], "centre": ()}, "centre must name at least one joint"),
        ({"edges": [(0, 1)], "shoulders": ((0,), (5,))}, "shoulders must name joints"),
        ({"edges": [(0, 1), (1, 2)], "pairs": ((0, 1), (1, 2))}, "one left-right pair only"),
        ({"edges": [(0, 1)], "dimensions": 4}, "dimensions must be 2 or 3, got 4"),
        ({"edges": [(0, 1)], "up": "+z", "dimensions": 2}, "up must be a signed axis"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        Skeleton(**fields)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"layout must be one of .*ntu-rgb\+d.*; got 'ntu'"):
        Skeleton.named("ntu")
    with pytest.raises(ValueError, match="partition must be one of spatial, distance, uniform; got 'hop'"):
        Skeleton.named("sbu").adjacency("hop")
