"""Copying memory with an orthogonal recurrent weight (Arjovsky, Shah & Bengio 2016).

python examples/orthogonal_rnn.py
"""

import torch
from shared import compare, fit, losses
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import cached

from riemopt import RiemannianAdam, constrain
from riemopt.manifolds import SpecialOrthogonal

HIDDEN, SYMBOLS, RECALL, DELAY = 64, 8, 5, 30
LR = {"riemopt": 0.01, "parametrized": 0.01, "no constraint": 0.003}


class RNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(SYMBOLS + 2, HIDDEN, bias=False)
        self.recurrent = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.bias, self.say = nn.Parameter(torch.zeros(HIDDEN)), nn.Linear(HIDDEN, SYMBOLS)
        angles = torch.rand(HIDDEN // 2) * 2 * torch.pi  # the start: random turns of planes
        turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1)
        self.recurrent.weight.data = torch.block_diag(*turns.view(-1, 2, 2))

    def loss(self, symbols):
        """Symbols are shown, then blanks, then a marker: they are to be said again."""
        shown = torch.full((len(symbols), RECALL + DELAY + RECALL), SYMBOLS)
        shown[:, :RECALL], shown[:, RECALL + DELAY] = symbols, SYMBOLS + 1
        h, said = symbols.new_zeros((len(symbols), HIDDEN)).float(), []
        with cached():  # one exponential of a step, not one for each time
            for x in self.read(one_hot(shown, SYMBOLS + 2).float()).unbind(1):
                z = x + self.recurrent(h)
                h = z.sign() * (z.abs() + self.bias).relu()  # modReLU keeps the norm
                said.append(h)
        return cross_entropy(self.say(torch.stack(said[-RECALL:], 1)).mT, symbols)


def train(way, seed, steps):
    torch.manual_seed(seed)
    model, symbols = RNN(), torch.randint(SYMBOLS, (20_000, RECALL))
    if way == "riemopt":
        constrain(model.recurrent, "weight", SpecialOrthogonal())
    elif way == "parametrized":
        orthogonal(model.recurrent, orthogonal_map="matrix_exp")
    optimizer = RiemannianAdam(model.parameters(), lr=LR[way])  # torch's Adam of free weights
    fit(model.loss, (symbols[1000:],), optimizer, steps, seed)
    W = model.recurrent.weight.detach()
    off = {"max |WᵀW - I|": (W.mT @ W - torch.eye(HIDDEN)).abs().max().item()}
    return model, losses(model.loss, (symbols[1000:2000],), (symbols[:1000],)) | off


if __name__ == "__main__":
    compare(train, LR, steps=300)
