import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from infoprune import zoo
from infoprune.errors import InputError

FILES = {
    "akamaster_resnet20-12fca82f.th": "resnet20",
    "akamaster_resnet32-d509ac18.th": "resnet32",
    "akamaster_resnet44-014dd654.th": "resnet44",
    "akamaster_resnet56-4bfd9763.th": "resnet56",
    "nm_ResNet.cifar10.original.56.pth.tar": "resnet56_b",
    "lenet5_caffe_mnist.pt": "lenet5",
    "vgg16_bn_cifar10.safetensors": "vgg16",
    "coral_tf2_mobilenet_v2_1.0_224_ptq_dequant.pt": "mobilenet_v2_imagenet",
}


@pytest.fixture
def weights():
    return zoo.build("digits").state_dict()


def logits(network, name):
    torch.manual_seed(1)
    with torch.no_grad():
        return network.eval()(torch.randn(2, *zoo.info(name).input_shape))


@pytest.mark.parametrize("file", FILES)
def test_every_published_file_loads_by_the_name_of_its_architecture(file, weights_dir):
    name = FILES[file]
    network, preprocessing = zoo.load_network(name, weights_dir / file)
    fresh = zoo.build(name).state_dict()
    loaded = network.state_dict()
    assert not network.training
    assert preprocessing == zoo.info(name).preprocessing
    assert {tensor.dtype for tensor in loaded.values()} <= {torch.float32, torch.int64}
    counters = {key for key in loaded if key.endswith("num_batches_tracked")}
    # Means of zero and variances of one would be a batch norm that nothing was loaded into.
    assert not any(torch.equal(loaded[key], fresh[key]) for key in loaded.keys() - counters)


@pytest.mark.parametrize("file", FILES)
def test_every_published_file_under_a_wrong_name_is_sent_to_the_right_one(file, weights_dir):
    for name in {"resnet110", "resnet56", "vgg16_hrel"} - {FILES[file]}:
        with pytest.raises(InputError, match=rf"\(it fits '{FILES[file]}'\)$"):
            zoo.load_network(name, weights_dir / file)


def test_option_b_weights_given_to_option_a_name_the_shortcut(weights_dir):
    with pytest.raises(InputError, match=r"network has no 'layer2.0.shortcut.0.weight' \(it fits 'resnet56_b'\)"):
        zoo.load_network("resnet56", weights_dir / "nm_ResNet.cifar10.original.56.pth.tar")


def test_an_own_option_b_file_given_to_option_a_is_sent_to_option_b(tmp_path):
    save_file(zoo.build("resnet20_b").state_dict(), tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"\(it fits 'resnet20_b'\)"):
        zoo.load_network("resnet20", tmp_path / "b.safetensors")


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"state_dict": s, "acc": 91.2}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_wrappers_and_prefixes_of_training_scripts_come_off(tmp_path, weights, wrapped, prefix):
    torch.save(wrapped({prefix + key: tensor for key, tensor in weights.items()}), tmp_path / "w.pt")
    read = zoo.read_weights(tmp_path / "w.pt")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], weights[key]) for key in weights)


def test_the_network_may_be_an_attribute_of_a_training_module(tmp_path, weights):
    torch.save({"state_dict": {f"student.{key}": tensor for key, tensor in weights.items()}}, tmp_path / "w.ckpt")
    network, _ = zoo.load_network("digits", tmp_path / "w.ckpt")
    assert torch.equal(network.classifier.weight, weights["classifier.weight"])


def test_a_scripted_network_is_named(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 1)), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"a network of TorchScript; store its state dict"):
        zoo.read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, weights, dtype):
    other = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    save_file(other, tmp_path / "w.safetensors")
    read = zoo.read_weights(str(tmp_path / "w.safetensors"))
    assert read["classifier.weight"].dtype == torch.float32
    assert torch.equal(read["classifier.weight"], other["classifier.weight"].float())
    assert read["features.1.num_batches_tracked"].dtype == torch.int64


def test_batch_counters_may_be_absent_and_nothing_else(tmp_path, weights):
    save_file({k: t for k, t in weights.items() if "num_batches" not in k}, tmp_path / "w.safetensors")
    network, _ = zoo.load_network("digits", tmp_path / "w.safetensors")
    assert torch.equal(network.classifier.weight, weights["classifier.weight"])
    del weights["features.1.running_mean"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"'digits': it has no 'features.1.running_mean'$"):
        zoo.load_network("digits", tmp_path / "less.safetensors")


def test_the_first_key_of_another_shape_is_named_with_both_shapes(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"'classifier.weight' has the shape \(10, 64\), the network needs \(3, 64\)"):
        zoo.load_network("digits", tmp_path / "w.safetensors", classes=3)


def test_weights_that_do_not_fit_leave_the_network_as_it_was(weights):
    network = zoo.build("digits", classes=3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(InputError):
        zoo.load_weights(network, weights, name="digits", source="w")
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_tensor_named(tmp_path, weights, value):
    weights["features.3.weight"][0, 0, 0, 0] = value
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"holds NaN or infinity in 'features\.3\.weight'"):
        zoo.read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("form", ["safetensors", "pt", "th"])
def test_a_truncated_file_is_refused(tmp_path, weights, form, share):
    path = tmp_path / f"w.{form}"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"'.*w\.\w+' (is not a whole safetensors file|cannot be read as weights)"):
        zoo.read_weights(path)


def test_files_that_are_not_there_or_not_weights_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("These are not weights.")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    torch.save({}, tmp_path / "empty.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "network.pt")
    for file, words in {
        "none.pt": "does not exist",
        ".": "is a folder",
        "text.pt": "neither safetensors nor a whole file",
        "list.pt": "holds no state dict",
        "numbers.pt": "holds no state dict",
        "empty.pt": "holds no state dict",
        "network.pt": "it holds torch.nn.modules.linear.Linear, which is no tensor",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            zoo.read_weights(tmp_path / file)
        assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_opened_is_refused(tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"")

    def denied(*_, **__):
        raise PermissionError("no")

    monkeypatch.setattr(torch, "load", denied)
    with pytest.raises(InputError, match="permission denied"):
        zoo.read_weights(tmp_path / "w.pt")


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("the trap was sprung",))

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match=r"it holds .*print, which is no tensor"):
        zoo.read_weights(tmp_path / "trap.pt")


def test_torchvisions_mobilenet_loads_into_ours(tmp_path):
    """Its key style, made here from ours by position: both list a block's layers in the order they run."""
    ours = zoo.build("mobilenet_v2")
    theirs = nn.ModuleDict({"features": nn.Sequential(*map(_torchvision_block, ours.features))})
    theirs["classifier"] = nn.Sequential(nn.Dropout(0.2), ours.classifier)
    assert "features.1.conv.1.weight" in theirs.state_dict()
    assert "features.17.conv.3.running_var" in theirs.state_dict()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    loaded, _ = zoo.load_network("mobilenet_v2", tmp_path / "theirs.pt")
    assert torch.equal(logits(loaded, "mobilenet_v2"), logits(ours, "mobilenet_v2"))


def _torchvision_block(block):
    if not hasattr(block.conv, "__len__"):
        return nn.Sequential(block.conv, block.norm)
    *active, last = block.conv
    theirs = nn.Module()
    theirs.conv = nn.Sequential(*(nn.Sequential(unit.conv, unit.norm) for unit in active), last.conv, last.norm)
    return theirs


def test_the_background_class_of_tensorflow_goes_unless_asked_for(weights_dir):
    path = weights_dir / "coral_tf2_mobilenet_v2_1.0_224_ptq_dequant.pt"
    without, _ = zoo.load_network("mobilenet_v2_imagenet", path)
    whole, _ = zoo.load_network("mobilenet_v2_imagenet", path, classes=1001)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(without(images), whole(images)[:, 1:])


def test_published_key_styles_of_resnet_and_lenet_are_translated(tmp_path):
    for name, theirs in {
        "resnet20_b": {"linear.": "fc.", ".shortcut.": ".downsample."},
        "lenet5": {"ip1.": "fc1.", "ip2.": "fc2."},
    }.items():
        network = zoo.build(name)
        state = network.state_dict()
        for ours, other in theirs.items():
            state = {key.replace(ours, other): tensor for key, tensor in state.items()}
        torch.save(state, tmp_path / "w.pt")
        loaded, _ = zoo.load_network(name, tmp_path / "w.pt")
        assert torch.equal(logits(loaded, name), logits(network, name))
