"""Components with one fault each; the class's name says which check must see it. Copied into a package by test_checks.py."""

import torch
import torch.nn.functional as F
from torch import nn

# --- backbones ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Nothing wrong: every broken backbone is this one but for a line."""

    num_features = 6
    feature_shape = (6, 2, 2)
    preprocess = {"size": (8, 8)}

    def __init__(self, pretrained=False, width: int = 6):
        super().__init__()
        self.layer = nn.Conv2d(3, width, 4, stride=4)

    def forward(self, images):
        return self.layer(images)


class BackboneBuilds(Net):
    def __init__(self):  # does not take `pretrained`
        super().__init__()


class BackboneAttributes(Net):
    num_features = 7


class BackboneShapes(Net):
    def forward(self, images):
        return super().forward(images).mean((2, 3))


class BackboneDtypes(Net):
    def forward(self, images):
        return super().forward(images).double()


class BackboneFinite(Net):
    def forward(self, images):
        return super().forward(images / images.amax((1, 2, 3), keepdim=True))  # 0 / 0 for a black image


class BackboneGradientReachesTheInput(Net):
    def forward(self, images):
        return super().forward(images.detach())


class BackboneBfloat16(Net):
    def forward(self, images):
        y = super().forward(images)
        return torch.zeros(y.shape).index_add(0, torch.arange(len(y)), y)  # both must be of one dtype


class BackboneEvaluationIsDeterministic(Net):
    def forward(self, images):
        return F.dropout(super().forward(images), 0.5)  # F.dropout does not look at the mode


class BackboneRowsAreIndependent(Net):
    def forward(self, images):
        return super().forward(images - images.mean(0))


class BackboneOrderOfTheBatch(Net):
    def forward(self, images):
        return super().forward(images) + torch.arange(len(images)).view(-1, 1, 1, 1)


class BackboneBatchOfOne(Net):
    def forward(self, images):
        return super().forward(images).squeeze(0)


class BackboneConfigRoundTrip(Net):
    def __init__(self, pretrained=False, activation=torch.relu):  # no recipe can name a function
        super().__init__()


class BackboneStateDictRoundTrip(Net):
    def __init__(self, pretrained=False):
        super().__init__()
        self.shift = torch.randn(1, 6, 1, 1)  # no buffer

    def forward(self, images):
        return super().forward(images) + self.shift


class BackboneZooRoundTrip(Net):
    def __init__(self, pretrained=False):
        super().__init__()
        self.same = self.layer  # the file of weights refuses tensors that share their memory


# --- heads ----------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Nothing wrong."""

    def __init__(self, feature_shape, bits, num_classes):
        super().__init__()
        self.linear = nn.Linear(feature_shape[0], bits)

    def forward(self, features):
        return self.linear(features.flatten(2).mean(2) if features.ndim == 4 else features)


class HeadBuilds(Head):
    def __init__(self, feature_shape, bits, num_classes):
        raise ValueError("maps only")  # a refusal is a HashzooError


class HeadShapes(Head):
    def forward(self, features):
        u = super().forward(features)
        return u, u  # logits of K classes


class HeadAnyNumberOfBits(Head):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__(feature_shape, bits // 4 * 4, num_classes)


class HeadDtypes(Head):
    def forward(self, features):
        return super().forward(features).double()


class HeadFinite(Head):
    def forward(self, features):
        return super().forward(features) / features.flatten(1).norm(dim=1)[:, None]


class HeadGradientReachesTheInput(Head):
    def forward(self, features):
        return super().forward(features.detach())


class HeadGradientReachesTheParameters(Head):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__(feature_shape, bits, num_classes)
        self.unused = nn.Linear(2, 2)


class HeadBfloat16(Head):
    def forward(self, features):
        y = super().forward(features)
        return torch.zeros(y.shape).index_add(0, torch.arange(len(y)), y)


class HeadEvaluationIsDeterministic(Head):
    def forward(self, features):
        return F.dropout(super().forward(features), 0.5)


class HeadRowsAreIndependent(Head):
    def forward(self, features):
        u = super().forward(features)
        return u - u.mean(0)


class HeadOrderOfTheBatch(Head):
    def forward(self, features):
        return super().forward(features) + torch.arange(len(features))[:, None]


class HeadBatchOfOne(Head):
    def forward(self, features):
        u = super().forward(features)
        return u / (u - u.mean(0)).norm(dim=0)


class HeadClosedForm(Head):
    def fit(self, features, targets):
        features = features.flatten(2).mean(2) if features.ndim == 4 else features
        self.linear.weight.zero_()[:5] = features[:5]  # one direction an item; further bits are left at 0
        self.linear.bias.zero_()


class HeadConfigRoundTrip(Head):
    def __init__(self, feature_shape, bits, num_classes, scales: list[float] = (1.0, 2.0)):
        super().__init__(feature_shape, bits, num_classes)
        self.factor = 3.0 if isinstance(scales, tuple) else 1.0  # a file gives a list

    def forward(self, features):
        return super().forward(features) * self.factor


class HeadStateDictRoundTrip(Head):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__(feature_shape, bits, num_classes)
        self.rotation = torch.linalg.qr(torch.randn(bits, bits))[0]

    def forward(self, features):
        return super().forward(features) @ self.rotation


class HeadZooRoundTrip(Head):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__(feature_shape, bits, num_classes)
        self.same = self.linear


# --- quantizers -----------------------------------------------------------------------------------------------------


class Quantizer(nn.Module):
    """Nothing wrong."""

    def __init__(self):
        super().__init__()

    def forward(self, u):
        return torch.tanh(u) if self.training else torch.where(u >= 0, 1.0, -1.0).to(u.dtype)


class QuantizerBuilds(Quantizer):
    def __init__(self, beta):
        super().__init__()


class QuantizerShapes(Quantizer):
    def forward(self, u):
        return super().forward(u)[:, :-1]


class QuantizerAnyNumberOfBits(Quantizer):
    def forward(self, u):
        return super().forward(u.view(len(u), -1, 4)).view(u.shape)


class QuantizerDtypes(Quantizer):
    def forward(self, u):
        return super().forward(u).double()


class QuantizerTrainingRange(Quantizer):
    def forward(self, u):
        return u if self.training else super().forward(u)


class QuantizerAgreesWithSign(Quantizer):
    def forward(self, u):
        return super().forward(u) if self.training else torch.where(u > 0, 1.0, -1.0)


class QuantizerFinite(Quantizer):
    def forward(self, u):
        return super().forward(u) * (u / u) if self.training else super().forward(u)


class QuantizerGradientReachesTheInput(Quantizer):
    def forward(self, u):
        return torch.sign(u) if self.training else super().forward(u)


class QuantizerBfloat16(Quantizer):
    def forward(self, u):
        return super().forward(u) + 0 * torch.linalg.svdvals(u[:, None])  # torch has none in bfloat16


class QuantizerEvaluationIsDeterministic(Quantizer):
    def forward(self, u):
        return super().forward(u) * (1 if self.training else torch.rand(len(u), 1).round() * 2 - 1)


class QuantizerRowsAreIndependent(Quantizer):
    def forward(self, u):  # half of each bit's codes become +1, in evaluation too
        return super().forward(u) if self.training else torch.where(u >= u.median(0).values, 1.0, -1.0)


class QuantizerOrderOfTheBatch(Quantizer):
    def forward(self, u):
        return super().forward(u * (1 - 2 * (torch.arange(len(u)) % 2))[:, None])


class QuantizerBatchOfOne(Quantizer):
    def forward(self, u):
        return super().forward(u).squeeze()


class QuantizerConfigRoundTrip(Quantizer):
    def __init__(self, function=torch.tanh):
        super().__init__()


class QuantizerStateDictRoundTrip(Quantizer):
    def __init__(self):
        super().__init__()
        self.signs = torch.randint(2, (12,)) * 2 - 1

    def forward(self, u):
        return super().forward(u * self.signs[: u.shape[1]])


class QuantizerZooRoundTrip(Quantizer):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.same = self.weight.view(3)
        self.register_buffer("shared", self.weight.data)


# --- losses ---------------------------------------------------------------------------------------------------------


class Loss(nn.Module):
    """Nothing wrong."""

    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__()
        self.classifier = nn.Linear(bits, num_classes)

    def forward(self, output, targets):
        logits = self.classifier(output.codes)
        loss = F.cross_entropy if targets.ndim == 1 else F.binary_cross_entropy_with_logits
        return {"class": loss(logits, targets)}


class LossBuilds(Loss):
    def __init__(self, bits, classes, multi_label=False):
        super().__init__(bits, classes)


class LossShapes(Loss):
    def forward(self, output, targets):
        return {"class": super().forward(output, targets)["class"], "each": output.u.square().mean(1)}


class LossAnyNumberOfBits(Loss):
    def __init__(self, bits, num_classes, multi_label=False):
        if bits not in (12, 16, 32, 64):
            raise KeyError(bits)
        super().__init__(bits, num_classes)


class LossDtypes(Loss):
    def forward(self, output, targets):
        return {"class": super().forward(output, targets)["class"].double()}


class LossFinite(Loss):
    def forward(self, output, targets):  # overflows where log1p(exp(x)) would be softplus
        return {**super().forward(output, targets), "pairs": torch.log1p(torch.exp(output.u @ output.u.T)).mean()}


class LossGradientReachesTheInput(Loss):
    def forward(self, output, targets):
        return {"codes": (output.codes.sign() - output.u.sign()).square().mean() + self.classifier.weight.mean()}


class LossGradientReachesTheParameters(Loss):
    def forward(self, output, targets):
        return {"quantization": (output.u.abs() - 1).square().mean()}


class LossBfloat16(Loss):
    def forward(self, output, targets):
        mixed = output.logits @ torch.eye(output.logits.shape[1])  # float32, which does not multiply bfloat16
        return {**super().forward(output, targets), "logits": mixed.square().mean()}


class LossOrderOfTheBatch(Loss):
    def forward(self, output, targets):
        neighbours = (output.u[1:] - output.u[:-1]).square().sum() / len(output.u)
        return {**super().forward(output, targets), "neighbours": neighbours}


class LossBatchOfOne(Loss):
    def forward(self, output, targets):
        return {**super().forward(output, targets), "spread": 1 / (output.u - output.u.mean(0)).square().mean()}


class LossOneClass(Loss):
    def forward(self, output, targets):
        same = targets[:, None] == targets if targets.ndim == 1 else targets @ targets.T > 0
        inner = output.u @ output.u.T
        return {**super().forward(output, targets), "apart": inner[~same].mean()}


class LossMultiLabel(Loss):
    def forward(self, output, targets):
        return {"class": F.nll_loss(self.classifier(output.codes).log_softmax(1), targets)}


class LossStepsAfterAnEpoch(Loss):
    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__(bits, num_classes)
        self.target = torch.zeros(bits)

    def forward(self, output, targets):
        self.mean = output.u.detach().mean(0)
        return {**super().forward(output, targets), "drift": (output.u - self.target).square().mean()}

    def end_epoch(self):
        self.target = self.mean.sign()  # a kill loses it


class LossConfigRoundTrip(Loss):
    def __init__(self, bits, num_classes, multi_label=False, weights=torch.ones(2)):
        super().__init__(bits, num_classes)


class LossStateDictRoundTrip(Loss):
    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__(bits, num_classes)
        self.centres = torch.randn(num_classes, bits)

    def forward(self, output, targets):
        return {**super().forward(output, targets), "centres": (output.u @ self.centres.T).square().mean()}


# --- for methods alone ----------------------------------------------------------------------------------------------


class LossThatStopsTheGradient(Loss):
    def forward(self, output, targets):
        return {"class": F.cross_entropy(self.classifier(output.codes.detach()), targets)}


class LossThatRises(Loss):
    def forward(self, output, targets):
        value = super().forward(output, targets)["class"]
        return {"class": value - 2 * value.detach()}  # the gradient of value, the value of -value


class HeadOfTwelve(Head):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__(feature_shape, 12, num_classes)


class HeadOfTen(Head):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__(feature_shape, 10, num_classes)
