import numpy as np
import pytest
import torch

from asma_fast import View


def _int(values):
    return np.array(values, dtype=np.int32)


def _random(rng, rows, source, length, dims=3):
    return View(
        frames=_int(rng.integers(0, source[0], (rows, length[0]))),
        joints=_int(rng.integers(0, source[1], (rows, length[1]))),
        nodes=_int(rng.integers(0, source[1], (rows, length[1]))),
        transform=rng.standard_normal((rows, dims, dims)),
    )


@pytest.mark.parametrize("rows", [(1, 1), (1, 4), (4, 1), (4, 4)])
def test_then_reads_each_map_through_the_other(rows):
    rng = np.random.default_rng(0)
    a, b = _random(rng, rows[0], (9, 7), (6, 5)), _random(rng, rows[1], (6, 5), (4, 3))
    both = a.then(b)
    for n in range(max(rows)):
        i, j, k = (0 if count == 1 else n for count in (*rows, max(rows)))
        for field in ("frames", "joints"):
            np.testing.assert_array_equal(getattr(both, field)[k], getattr(a, field)[i][getattr(b, field)[j]])
        np.testing.assert_array_equal(both.nodes[k], a.nodes[i][b.nodes[j]])
        np.testing.assert_allclose(both.transform[k], b.transform[j] @ a.transform[i])
    assert both.frames.dtype == both.joints.dtype == both.nodes.dtype == np.int32


def test_then_is_associative_and_the_empty_view_is_its_unit():
    rng = np.random.default_rng(1)
    a, b, c = (_random(rng, 2, size, size) for size in ((5, 5),) * 3)
    left, right = a.then(b).then(c), a.then(b.then(c))
    for one, other in zip(left.arrays(), right.arrays(), strict=True):
        np.testing.assert_allclose(one, other)
    for same in (a.then(View()), View().then(a)):
        for one, other in zip(same.arrays(), a.arrays(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_flip_then_a_mask_keeps_the_node_played():
    flip = View(joints=_int([[1, 0, 2]]), nodes=_int([[0, 1, 2]]))
    masked = flip.then(View(joints=_int([[0, 2], [1, 2]])))
    assert masked.joints.tolist() == [[1, 2], [0, 2]]
    assert masked.nodes.tolist() == [[0, 2], [1, 2]]


def test_nodes_default_to_joints():
    joints = _int([[2, 0]])
    assert View(joints=joints).graph_nodes is joints
    assert View().graph_nodes is None
    nodes = _int([[1, 1]])
    assert View(joints=joints, nodes=nodes).graph_nodes is nodes


def test_tensors_and_arrays_compose_to_tensors():
    rng = np.random.default_rng(2)
    a, b = _random(rng, 3, (9, 7), (6, 5)), _random(rng, 3, (6, 5), (4, 3))
    expected = a.then(b)
    tensors = View(*(torch.from_numpy(array) for array in b.arrays()))
    for one, other in zip(a.then(tensors).arrays(), expected.arrays(), strict=True):
        assert isinstance(one, torch.Tensor)
        np.testing.assert_allclose(one.numpy(), other)


def test_a_view_is_a_pytree():
    import asma_fast.ops  # noqa: F401  registers it

    view = View(frames=torch.zeros(2, 3, dtype=torch.int32))
    leaves, spec = torch.utils._pytree.tree_flatten(view)
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert again.frames is view.frames
    assert again.joints is None


def test_a_view_is_frozen_and_has_identity_equality():
    view = View()
    with pytest.raises(AttributeError):
        view.frames = _int([[0]])
    assert view != View()
    assert len({view, View()}) == 2


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"frames": _int([0, 1])}, ValueError, r"view.frames must have shape \(N, positions\), got \(2,\)"),
        ({"joints": [[0, 1]]}, ValueError, r"view.joints must have shape \(N, positions\), got list"),
        ({"joints": np.zeros((1, 2), np.int64)}, TypeError, "view.joints must be int32, got int64"),
        ({"nodes": torch.zeros(1, 2)}, TypeError, "view.nodes must be int32, got float32"),
        ({"transform": np.zeros((1, 4, 4))}, ValueError, r"view.transform must have shape .*, got \(1, 4, 4\)"),
        ({"transform": np.zeros((3, 3))}, ValueError, r"view.transform must have shape .*, got \(3, 3\)"),
        ({"transform": np.zeros((1, 3, 3), np.int64)}, TypeError, "view.transform must be floating, got int64"),
        ({"joints": _int([[0, 1]]), "nodes": _int([[0]])}, ValueError, "as many positions, got 2 and 1"),
        ({"frames": _int([[0]] * 2), "joints": _int([[0]] * 3)}, ValueError, "N rows or 1, got 2 and 3"),
    ],
)
def test_bad_input(arrays, error, message):
    with pytest.raises(error, match=message):
        View(**arrays)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("position", [3, -1])
def test_a_position_the_first_view_lacks_is_an_error(kind, position):
    first, second = View(frames=kind(_int([[4, 5, 6]]))), View(frames=kind(_int([[0, position]])))
    with pytest.raises(ValueError, match=r"positions must lie in \[0, 3\), got "):
        first.then(second)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_views_of_different_batches_do_not_compose(kind):
    first, second = View(joints=kind(_int([[0]] * 2))), View(joints=kind(_int([[0]] * 3)))
    with pytest.raises(ValueError, match="clip by clip, got 2 and 3 rows"):
        first.then(second)


def test_transforms_of_different_sizes_do_not_compose():
    with pytest.raises(ValueError, match="one size to compose, got 2 and 3"):
        View(transform=np.zeros((1, 3, 3))).then(View(transform=np.zeros((1, 2, 2))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_dtype_is_for_the_transform_alone(dtype):
    view = View(*(_int([[257, 999]]) for _ in range(3)), transform=np.eye(3, dtype=np.float32)[None])
    for moved in (
        view.to(dtype),
        view.to("cpu", dtype),
        view.to(dtype=dtype, copy=True),
        view.to(torch.ones(1, dtype=dtype)),
    ):
        assert [m.tolist() for m in (moved.frames, moved.joints, moved.nodes)] == [[[257, 999]]] * 3
        assert moved.frames.dtype == torch.int32
        assert moved.transform.dtype == dtype
