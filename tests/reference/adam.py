"""Three steps of PyTorch's Adam and AdamW on a 2 x 3 weight; prints the numbers that tests/it/train.rs compares with.

Run with PyTorch 2.13: python tests/reference/adam.py
"""

import torch

for kind, optimiser in [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]:
    weight = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.25, -0.75]], dtype=torch.float64, requires_grad=True)
    steps = optimiser([weight], lr=0.1, weight_decay=0.1)
    for step in range(3):
        weight.grad = torch.tensor([[0.1, -0.2, 0.3], [0.0, 1e-3, -4.0]], dtype=torch.float64) * (step + 1) - 0.05
        steps.step()
    print(kind, [round(value, 9) for value in weight.detach().flatten().tolist()])
