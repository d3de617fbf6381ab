"""The conformance checks, on all that the core itself offers."""

from hashzoo.testing import Subject, parametrize_with_checks


@parametrize_with_checks(
    [
        Subject("backbone", "timm/test_resnet"),
        Subject("backbone", "timm/test_vit"),
        Subject("backbone", "torchvision/shufflenet_v2_x0_5"),
        Subject("head", "linear"),
        Subject("loss", "classification"),
        Subject("quantizer", "sign"),
        Subject("quantizer", "sign", {"gradient": "identity"}),
        Subject("quantizer", "tanh"),
        Subject("quantizer", "tanh", {"beta": 10.0}),
        Subject("quantizer", "tanh", {"beta_end": 10.0}),
    ]
)
def test_conforms(check):
    check()
