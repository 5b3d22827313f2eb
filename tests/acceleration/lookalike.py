"""Networks with the structure of the public MUNIT code, written from its description, for `fastmunit.accelerate`.

Class and attribute names, registration order and behavior are those of the public code. Nothing of fastmunit is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "zero": nn.ZeroPad2d}


class AdaptiveInstanceNorm2d(nn.Module):
    """AdaIN whose weight and bias, (N·C,), are assigned from outside before each forward."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight: Any = None
        self.bias: Any = None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None and self.bias is not None, "assign weight and bias first"
        n, c = x.shape[:2]
        mean, var = self.running_mean.repeat(n), self.running_var.repeat(n)
        groups = x.contiguous().view(1, n * c, *x.shape[2:])
        return F.batch_norm(groups, mean, var, self.weight, self.bias, True, self.momentum, self.eps).view_as(x)


class LayerNorm(nn.Module):
    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.affine = affine
        if affine:
            self.gamma = nn.Parameter(torch.empty(num_features).uniform_())
            self.beta = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        shape = [-1] + [1] * (x.dim() - 1)
        if len(x) == 1:
            mean, std = x.reshape(-1).mean().view(shape), x.reshape(-1).std().view(shape)
        else:
            flat = x.reshape(len(x), -1)
            mean, std = flat.mean(1).view(shape), flat.std(1).view(shape)
        x = (x - mean) / (std + self.eps)
        if self.affine:
            shape = [1, -1] + [1] * (x.dim() - 2)
            x = x * self.gamma.view(shape) + self.beta.view(shape)
        return x


class SpectralNorm(nn.Module):
    """Spectral norm with one power iteration per forward. The inner module owns the parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        weight = module.weight
        del module.weight
        u, v = torch.randn(len(weight)), torch.randn(weight[0].numel())
        module.register_parameter("weight_u", nn.Parameter(u / u.norm(), requires_grad=False))
        module.register_parameter("weight_v", nn.Parameter(v / v.norm(), requires_grad=False))
        module.register_parameter("weight_bar", nn.Parameter(weight.data))

    def forward(self, x: Tensor) -> Tensor:
        u, v, w = self.module.weight_u, self.module.weight_v, self.module.weight_bar
        matrix = w.view(len(w), -1)
        v.data = F.normalize(matrix.t().mv(u.data), dim=0, eps=1e-12).data
        u.data = F.normalize(matrix.mv(v.data), dim=0, eps=1e-12).data
        self.module.weight = w / u.dot(matrix.mv(v))
        return self.module(x)


def activation_of(name: str) -> nn.Module | None:
    return {
        "relu": lambda: nn.ReLU(inplace=True),
        "lrelu": lambda: nn.LeakyReLU(0.2, inplace=True),
        "prelu": nn.PReLU,
        "selu": lambda: nn.SELU(inplace=True),
        "tanh": nn.Tanh,
        "none": lambda: None,
    }[name]()


class Conv2dBlock(nn.Module):
    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        norm: str = "none",
        activation: str = "relu",
        pad_type: str = "zero",
    ) -> None:
        super().__init__()
        self.pad = PADS[pad_type](padding)
        norms = {
            "bn": nn.BatchNorm2d,
            "in": nn.InstanceNorm2d,
            "ln": LayerNorm,
            "adain": AdaptiveInstanceNorm2d,
        }
        self.norm = norms[norm](output_dim) if norm in norms else None
        self.activation = activation_of(activation)
        conv = nn.Conv2d(input_dim, output_dim, kernel_size, stride)
        self.conv = SpectralNorm(conv) if norm == "sn" else conv

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pad(x))
        if self.norm:
            x = self.norm(x)
        if self.activation:
            x = self.activation(x)
        return x


class LinearBlock(nn.Module):
    def __init__(self, input_dim: int, output_dim: int, norm: str = "none", activation: str = "relu") -> None:
        super().__init__()
        self.fc = nn.Linear(input_dim, output_dim)
        self.norm = None
        self.activation = activation_of(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.activation(x) if self.activation else x


class ResBlock(nn.Module):
    def __init__(self, dim: int, norm: str = "in", activation: str = "relu", pad_type: str = "zero") -> None:
        super().__init__()
        self.model = nn.Sequential(
            Conv2dBlock(dim, dim, 3, 1, 1, norm, activation, pad_type),
            Conv2dBlock(dim, dim, 3, 1, 1, norm, "none", pad_type),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        out = self.model(x)
        out += residual
        return out


class ResBlocks(nn.Module):
    def __init__(self, num_blocks: int, dim: int, norm: str = "in", activation: str = "relu", pad_type: str = "zero"):
        super().__init__()
        self.model = nn.Sequential(*[ResBlock(dim, norm, activation, pad_type) for _ in range(num_blocks)])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class ContentEncoder(nn.Module):
    def __init__(
        self, n_downsample: int, n_res: int, input_dim: int, dim: int, norm: str, activ: str, pad_type: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 7, 1, 3, norm, activ, pad_type)]
        for _ in range(n_downsample):
            layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, norm, activ, pad_type))
            dim *= 2
        layers.append(ResBlocks(n_res, dim, norm, activ, pad_type))
        self.model = nn.Sequential(*layers)
        self.output_dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class StyleEncoder(nn.Module):
    def __init__(
        self, n_downsample: int, input_dim: int, dim: int, style_dim: int, norm: str, activ: str, pad_type: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 7, 1, 3, norm, activ, pad_type)]
        for _ in range(2):
            layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, norm, activ, pad_type))
            dim *= 2
        for _ in range(n_downsample - 2):
            layers.append(Conv2dBlock(dim, dim, 4, 2, 1, norm, activ, pad_type))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, style_dim, 1, 1, 0)]
        self.model = nn.Sequential(*layers)
        self.output_dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Decoder(nn.Module):
    def __init__(
        self, n_upsample: int, n_res: int, dim: int, output_dim: int, res_norm: str, activ: str, pad_type: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [ResBlocks(n_res, dim, res_norm, activ, pad_type)]
        for _ in range(n_upsample):
            layers += [nn.Upsample(scale_factor=2), Conv2dBlock(dim, dim // 2, 5, 1, 2, "ln", activ, pad_type)]
            dim //= 2
        layers.append(Conv2dBlock(dim, output_dim, 7, 1, 3, "none", "tanh", pad_type))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MLP(nn.Module):
    def __init__(self, input_dim: int, output_dim: int, dim: int, n_blk: int, norm: str = "none", activ: str = "relu"):
        super().__init__()
        layers = [LinearBlock(input_dim, dim, norm, activ)]
        layers += [LinearBlock(dim, dim, norm, activ) for _ in range(n_blk - 2)]
        layers.append(LinearBlock(dim, output_dim, "none", "none"))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.view(x.size(0), -1))


class AdaINGen(nn.Module):
    def __init__(self, input_dim: int, params: dict[str, Any]) -> None:
        super().__init__()
        dim, activ, pad = params["dim"], params["activ"], params["pad_type"]
        down, n_res = params["n_downsample"], params["n_res"]
        self.enc_style = StyleEncoder(4, input_dim, dim, params["style_dim"], "none", activ, pad)
        self.enc_content = ContentEncoder(down, n_res, input_dim, dim, "in", activ, pad)
        self.dec = Decoder(down, n_res, self.enc_content.output_dim, input_dim, "adain", activ, pad)
        self.mlp = MLP(params["style_dim"], self.get_num_adain_params(self.dec), params["mlp_dim"], 3, activ=activ)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(*self.encode(images))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        style = self.enc_style(images)
        return self.enc_content(images), style

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        self.assign_adain_params(self.mlp(style), self.dec)
        return self.dec(content)

    def assign_adain_params(self, adain_params: Tensor, model: nn.Module) -> None:
        for module in model.modules():
            if module.__class__.__name__ == "AdaptiveInstanceNorm2d":
                c = module.num_features
                module.bias = adain_params[:, :c].contiguous().view(-1)
                module.weight = adain_params[:, c : 2 * c].contiguous().view(-1)
                adain_params = adain_params[:, 2 * c :]

    def get_num_adain_params(self, model: nn.Module) -> int:
        norms = [m for m in model.modules() if m.__class__.__name__ == "AdaptiveInstanceNorm2d"]
        return sum(2 * m.num_features for m in norms)


class VAEGen(nn.Module):
    def __init__(self, input_dim: int, params: dict[str, Any]) -> None:
        super().__init__()
        dim, activ, pad = params["dim"], params["activ"], params["pad_type"]
        down, n_res = params["n_downsample"], params["n_res"]
        self.enc = ContentEncoder(down, n_res, input_dim, dim, "in", activ, pad)
        self.dec = Decoder(down, n_res, self.enc.output_dim, input_dim, "in", activ, pad)

    def forward(self, images: Tensor) -> Tensor:
        hiddens, noise = self.encode(images)
        return self.decode(hiddens + noise if self.training else hiddens)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hiddens = self.enc(images)
        return hiddens, torch.randn(hiddens.size()).to(hiddens)

    def decode(self, hiddens: Tensor) -> Tensor:
        return self.dec(hiddens)


class MsImageDis(nn.Module):
    def __init__(self, input_dim: int, params: dict[str, Any]) -> None:
        super().__init__()
        self.params, self.input_dim = params, input_dim
        self.downsample = nn.AvgPool2d(3, stride=2, padding=[1, 1], count_include_pad=False)
        self.cnns = nn.ModuleList([self._make_net() for _ in range(params["num_scales"])])

    def _make_net(self) -> nn.Sequential:
        dim, norm, activ, pad = (self.params[key] for key in ("dim", "norm", "activ", "pad_type"))
        layers: list[nn.Module] = [Conv2dBlock(self.input_dim, dim, 4, 2, 1, "none", activ, pad)]
        for _ in range(self.params["n_layer"] - 1):
            layers.append(Conv2dBlock(dim, dim * 2, 4, 2, 1, norm, activ, pad))
            dim *= 2
        layers.append(nn.Conv2d(dim, 1, 1, 1, 0))
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for model in self.cnns:
            outputs.append(model(x))
            x = self.downsample(x)
        return outputs

    def calc_dis_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        pairs = zip(self(fake), self(real), strict=True)
        return sum((torch.mean(f**2) + torch.mean((r - 1) ** 2) for f, r in pairs), start=torch.zeros(()))

    def calc_gen_loss(self, fake: Tensor) -> Tensor:
        return sum((torch.mean((f - 1) ** 2) for f in self(fake)), start=torch.zeros(()))


class MUNIT_Trainer(nn.Module):
    """Networks, Adam and both updates of the public trainer, without schedules and perceptual loss."""

    def __init__(self, hyperparameters: dict[str, Any]) -> None:
        super().__init__()
        gen, dis = hyperparameters["gen"], hyperparameters["dis"]
        self.gen_a, self.gen_b = AdaINGen(3, gen), AdaINGen(3, gen)
        self.dis_a, self.dis_b = MsImageDis(3, dis), MsImageDis(3, dis)
        self.instancenorm = nn.InstanceNorm2d(512, affine=False)
        self.style_dim = gen["style_dim"]
        options = {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}
        trained = [[p for m in nets for p in m.parameters() if p.requires_grad] for nets in self._networks()]
        self.dis_opt = torch.optim.Adam(trained[0], **options)
        self.gen_opt = torch.optim.Adam(trained[1], **options)

    def _networks(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return [self.dis_a, self.dis_b], [self.gen_a, self.gen_b]

    def _styles(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), self.style_dim, 1, 1).to(x)

    def dis_update(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        self.dis_opt.zero_grad()
        s_a, s_b = self._styles(x_a), self._styles(x_b)
        c_a, c_b = self.gen_a.encode(x_a)[0], self.gen_b.encode(x_b)[0]
        x_ba, x_ab = self.gen_a.decode(c_b, s_a), self.gen_b.decode(c_a, s_b)
        loss = self.dis_a.calc_dis_loss(x_ba.detach(), x_a) + self.dis_b.calc_dis_loss(x_ab.detach(), x_b)
        loss.backward()
        self.dis_opt.step()
        return loss.detach()

    def gen_update(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        self.gen_opt.zero_grad()
        s_a, s_b = self._styles(x_a), self._styles(x_b)
        c_a, s_a_prime = self.gen_a.encode(x_a)
        c_b, s_b_prime = self.gen_b.encode(x_b)
        x_a_recon, x_b_recon = self.gen_a.decode(c_a, s_a_prime), self.gen_b.decode(c_b, s_b_prime)
        x_ba, x_ab = self.gen_a.decode(c_b, s_a), self.gen_b.decode(c_a, s_b)
        c_b_recon, s_a_recon = self.gen_a.encode(x_ba)
        c_a_recon, s_b_recon = self.gen_b.encode(x_ab)
        l1 = [
            (10, x_a_recon, x_a), (10, x_b_recon, x_b), (1, s_a_recon, s_a), (1, s_b_recon, s_b),
            (1, c_a_recon, c_a), (1, c_b_recon, c_b),
        ]  # fmt: skip
        loss = self.dis_a.calc_gen_loss(x_ba) + self.dis_b.calc_gen_loss(x_ab)
        loss = loss + sum(weight * (value - target).abs().mean() for weight, value, target in l1)
        loss.backward()
        self.gen_opt.step()
        return loss.detach()
