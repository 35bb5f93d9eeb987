"""Makes handcrafted/: parameter files of BRISQUE, NIQE and ILNIQE's forms, and what NumPy and SciPy compute with them.

    python tests/reference/handcrafted.py     # numpy 2.4.6, scipy 1.17.1

The published parameters may not be passed on; these say nothing about quality. Their numbers are simple ones, so that
the files are small. The three methods are written from their papers and the authors' MATLAB, in 64-bit floats, with plain
two-dimensional filters. A difference from a local mean below 1e-9 is 0: it is rounding noise of a constant neighbourhood,
whose sign would be counted. So are derivatives and responses of filters below 1e-9.

The pictures are those of `rule.picture`, which the test makes anew.
"""

from pathlib import Path

import numpy as np
from scipy import io, ndimage, optimize, special

import rule

OUT = Path(__file__).resolve().parent / "handcrafted"
PICTURES = [("broad", 300, 201), ("high", 110, 400)]
GRID = np.arange(200, 10001) / 1000


def snap(xs):
    return np.where(np.abs(xs) < 1e-9, 0.0, xs)


def gaussian(n, sigma):
    at = np.arange(n) - (n - 1) / 2
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def luma(rgb):
    weights = np.linalg.inv(np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.106, 1.703]]))[0]
    return np.floor(rgb.astype(np.float64) @ weights + 0.5)


def mscn(xs, kernel, mode):
    filtered = lambda xs: ndimage.correlate(xs, kernel, mode=mode, cval=0.0)
    mean = filtered(xs)
    return snap(xs - mean) / (np.sqrt(np.abs(filtered(xs * xs) - mean * mean)) + 1)


def cubic(x):
    x = np.abs(x)
    x2, x3 = x * x, x * x * x
    return np.where(x <= 1, 1.5 * x3 - 2.5 * x2 + 1, np.where(x <= 2, -0.5 * x3 + 2.5 * x2 - 4 * x + 2, 0.0))


def imresize(xs, n_out, scale=None):
    """MATLAB's imresize of the first axis, in its order of operations: values half way between levels are rounded later."""
    n_in = len(xs)
    scale = scale or n_out / n_in
    stretch = min(scale, 1.0)
    width = 4 / stretch
    out = []
    for i in range(1, n_out + 1):
        centre = i / scale + 0.5 * (1 - 1 / scale)
        at = np.floor(centre - width / 2) + np.arange(int(np.ceil(width)) + 2)
        weights = stretch * cubic(stretch * (centre - at))
        total = sum(weights.tolist())
        mirrored = np.mod(at.astype(int) - 1, 2 * n_in)
        mirrored = np.where(mirrored < n_in, mirrored, 2 * n_in - 1 - mirrored)
        row = np.zeros(xs.shape[1:])
        for weight, source in zip(weights, mirrored):
            row += weight / total * xs[source]
        out.append(row)
    return np.array(out)


def halve(xs):
    half = lambda xs: imresize(xs, -(-len(xs) // 2), 0.5)
    return half(half(xs).T).T


def gamma_ratio(a):
    return special.gamma(2 / a) ** 2 / (special.gamma(1 / a) * special.gamma(3 / a))


RATIOS = gamma_ratio(GRID)


def rms(xs):
    return np.sqrt(np.mean(xs**2)) if len(xs) else np.nan


def asymmetric(xs):
    """Shape, left and right root mean square."""
    xs = xs.ravel()
    left, right = rms(xs[xs < 0]), rms(xs[xs > 0])
    g = left / right
    with np.errstate(invalid="ignore"):
        ratio = np.mean(np.abs(xs)) ** 2 / np.mean(xs**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = GRID[0] if np.isnan(ratio) else GRID[np.argmin((RATIOS - ratio) ** 2)]
    return alpha, left, right


def products(xs):
    """With the neighbours on the right, below, below right and below left; they wrap around."""
    return [xs * np.roll(xs, shift, (0, 1)) for shift in ((0, -1), (-1, 0), (-1, -1), (-1, 1))]


def brisque_features(rgb):
    found, plane = [], luma(rgb)
    for _ in range(2):
        xs = mscn(plane, gaussian(7, 7 / 6), "constant")
        ratio = np.mean(xs**2) / np.mean(np.abs(xs)) ** 2
        found += [GRID[np.argmin((1 / RATIOS - ratio) ** 2)], np.mean(xs**2)]
        for product in products(xs):
            alpha, left, right = asymmetric(product)
            scale = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha)) * special.gamma(2 / alpha) / special.gamma(1 / alpha)
            found += [alpha, (right - left) * scale, left**2, right**2]
        plane = halve(plane)
    return np.array(found)


def scales(xs):
    """Shape, and the scales of both sides."""
    alpha, left, right = asymmetric(xs)
    k = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha))
    return alpha, left * k, right * k


def niqe_block(xs):
    alpha, left, right = scales(xs)
    found = [alpha, (left + right) / 2]
    for product in products(xs):
        alpha, left, right = scales(product)
        found += [alpha, (right - left) * special.gamma(2 / alpha) / special.gamma(1 / alpha), left, right]
    return found


def blocks_of(plane, side):
    """Column by column."""
    height, width = plane.shape
    return [plane[y : y + side, x : x + side] for x in range(0, width, side) for y in range(0, height, side)]


def niqe_features(rgb):
    plane = luma(rgb)
    plane = plane[: plane.shape[0] // 96 * 96, : plane.shape[1] // 96 * 96]
    of_scales = []
    for xs, side in ((plane, 96), (halve(plane), 48)):
        normalised = mscn(xs, gaussian(7, 7 / 6), "nearest")
        of_scales.append([niqe_block(block) for block in blocks_of(normalised, side)])
    return np.concatenate(of_scales, 1)


def resized_524(rgb):
    """Each pass rounded to 8 bits; the axis that shrinks more, or grows less, first."""
    to_8_bits = lambda xs: np.clip(np.floor(xs + 0.5), 0, 255)
    by_rows = lambda xs: to_8_bits(imresize(xs, 524))
    by_columns = lambda xs: by_rows(xs.transpose(1, 0, 2)).transpose(1, 0, 2)
    height, width, _ = rgb.shape
    passes = [by_rows, by_columns] if height >= width else [by_columns, by_rows]
    return passes[1](passes[0](rgb.astype(np.float64)))


def weibull(xs):
    """Scale and shape by maximum likelihood."""
    xs = xs.ravel()
    if np.ptp(xs) == 0:
        return xs[0], np.inf
    logs = np.log(xs / xs.max())
    def slope(shape):
        powers = np.exp(shape * logs)
        return (powers * logs).sum() / powers.sum() - 1 / shape - logs.mean()
    high = 1.0
    while slope(high) < 0:
        high *= 2
    shape = optimize.brentq(slope, 1e-3, high, xtol=1e-13, rtol=1e-14)
    return xs.max() * np.mean(np.exp(shape * logs)) ** (1 / shape), shape


def gradients(plane, sigma):
    n = int(np.ceil(3 * sigma))
    at = np.arange(-n, n + 1)
    bell, odd = np.exp(-(at**2) / (2 * sigma**2)), at * np.exp(-(at**2) / (2 * sigma**2))
    along = lambda kx, ky: ndimage.convolve(plane, np.outer(ky, kx), mode="constant", cval=0.0)
    return snap(along(odd, bell)), snap(along(bell, odd))


def responses(plane, shortest):
    """Of 3 wavelengths, 4 orientations each."""
    n = len(plane)
    at = np.arange(-n // 2, n // 2) / n
    x, y = np.meshgrid(at, at)
    radius, theta = np.hypot(x, y), np.arctan2(-y, x)
    radius[n // 2, n // 2] = 1
    spectrum = np.fft.fft2(plane)
    for s in range(3):
        radial = np.exp(-(np.log(radius * shortest * 1.31**s) ** 2) / (2 * np.log(0.55) ** 2))
        radial[n // 2, n // 2] = 0
        for o in range(4):
            angle = o * np.pi / 4
            sine = np.sin(theta) * np.cos(angle) - np.cos(theta) * np.sin(angle)
            cosine = np.cos(theta) * np.cos(angle) + np.sin(theta) * np.sin(angle)
            away = np.abs(np.arctan2(sine, cosine))
            gain = radial * np.exp(-(away**2) / (2 * (np.pi / 4 / 1.1) ** 2))
            yield np.fft.ifft2(spectrum * np.fft.ifftshift(gain))


def ilniqe_scale(opponents, colours, number, side):
    sigma, shortest = 1.66 / number**0.28, 2.4 / number**0.87
    of_blocks = lambda plane, f: [f(block) for block in blocks_of(plane, side)]
    normalised = mscn(opponents[2], gaussian(5, 5 / 6), "nearest")
    statistics = [of_blocks(normalised, niqe_block)]
    shape_and_scale = lambda xs: (lambda a, l, r: [a, (l + r) / 2])(*scales(xs))
    of_gradient = lambda dx, dy: of_blocks(np.hypot(dx, dy) + 2.2e-16, weibull)
    derivatives = [gradients(plane, sigma) for plane in opponents]
    statistics += [of_gradient(dx, dy) for dx, dy in derivatives]
    r, g, b = (np.log(c + 1e-5) - np.mean(np.log(c + 1e-5)) for c in colours)
    for plane in ((r + g + b) / np.sqrt(3), (r + g - 2 * b) / np.sqrt(6), (r - g) / np.sqrt(2)):
        statistics.append(of_blocks(plane, lambda xs: [xs.mean(), xs.var(ddof=1)]))
    statistics += [of_blocks(d, shape_and_scale) for pair in derivatives for d in pair]
    parts = [snap(part) for response in responses(opponents[2], shortest) for part in (response.real, response.imag)]
    statistics += [of_blocks(part, shape_and_scale) for part in parts]
    derivatives = [gradients(part, sigma) for part in parts]
    statistics += [of_blocks(d, shape_and_scale) for pair in derivatives for d in pair]
    statistics += [of_gradient(dx, dy) for dx, dy in derivatives]
    return np.concatenate(statistics, 1)


def ilniqe_features(resized):
    r, g, b = (resized[:504, :504, c] for c in range(3))
    opponents = [0.3 * r + 0.04 * g - 0.35 * b, 0.34 * r - 0.6 * g + 0.17 * b, 0.06 * r + 0.63 * g + 0.27 * b]
    at = np.arange(6) - 2.5
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 0.9**2))
    # Its centre is the third of six: taps from -2 to 3.
    half = lambda xs: ndimage.correlate(xs, kernel / kernel.sum(), mode="nearest", origin=-1)[::2, ::2]
    first = ilniqe_scale(opponents, (r, g, b), 1, 84)
    second = ilniqe_scale([half(xs) for xs in opponents], [half(xs) for xs in (r, g, b)], 2, 42)
    features = np.concatenate([first, second], 1)
    features[np.isinf(features)] = 10_000
    return features


# ---- parameters


def brisque_parameters():
    vectors = np.round(rule.fill("brisque.vectors", [8, 36], 36) * 10, 3)
    coefficients = [4.5, -3.0, 10.0, -7.25, 1.5, 6.0, -2.0, 8.0]
    lines = ["svm_type epsilon_svr", "kernel_type rbf", "gamma 0.05", "nr_class 2", "total_sv 8", "rho -12.5", "SV"]
    for coefficient, vector in zip(coefficients, vectors):
        lines.append(f"{coefficient:g} " + " ".join(f"{i}:{v:.3f}" for i, v in enumerate(vector, 1)))
    (OUT / "brisque_allmodel").write_text("\n".join(lines) + "\n")
    low, high = np.round(np.arange(36) % 5 * -0.1, 1), np.round(1 + np.arange(36) % 7 * 0.25, 2)
    lines = ["x", "-1 1"] + [f"{i} {a:g} {b:g}" for i, (a, b) in enumerate(zip(low, high), 1)]
    (OUT / "brisque_allrange").write_text("\n".join(lines) + "\n")
    written = np.array([[float(f"{v:.3f}") for v in vector] for vector in vectors])

    def score(features):
        scaled = -1 + 2 * (features - low) / (high - low)
        return sum(c * np.exp(-0.05 * ((v - scaled) ** 2).sum()) for c, v in zip(coefficients, written)) + 12.5

    return score


def save_matlab(name, variables):
    io.savemat(OUT / name, variables, do_compression=True)
    # The header's text says when; without that the file is the same every time.
    with open(OUT / name, "r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file, made by tests/reference/handcrafted.py".ljust(116))


def niqe_parameters():
    mean = 1 + np.arange(36) % 6 * 0.125
    covariance = np.diag(0.25 + np.arange(36) % 4 * 0.125) + 0.0625
    save_matlab("niqe_modelparameters.mat", {"mu_prisparam": mean[None], "cov_prisparam": covariance})

    def score(features):
        whole = features[~np.isnan(features).any(1)]
        off = mean - np.nanmean(features, 0)
        return np.sqrt(off @ np.linalg.pinv((covariance + np.cov(whole.T)) / 2) @ off)

    return score


def ilniqe_parameters():
    k = np.arange(430)
    mean, template = k % 8 * 0.25, np.arange(468) % 16 * 0.125
    covariance = np.diag(1.0 + k % 7) + 0.25
    directions = np.zeros((468, 430))
    directions[k, k], directions[k + 38, k] = 1.0, 0.5
    cells = np.empty((1, 4), object)
    cells[0] = [mean[None], covariance, template[:, None], directions]
    save_matlab("ilniqe_templateModel.mat", {"templateModel": cells})

    def score(features):
        is_whole = ~np.isnan(features).any(1)
        projected = (features[is_whole] - template) @ directions
        inverse = np.linalg.pinv((covariance + np.cov(projected.T)) / 2)
        at = np.tile(projected.mean(0), (len(features), 1))
        at[is_whole] = projected
        return np.mean([np.sqrt((z - mean) @ inverse @ (z - mean)) for z in at])

    return score


def main():
    OUT.mkdir(exist_ok=True)
    score = {"brisque": brisque_parameters(), "niqe": niqe_parameters(), "ilniqe": ilniqe_parameters()}
    rounded = lambda xs: [float(f"{x:.9g}") for x in xs]
    sums = lambda xs: [int(xs[..., c].sum()) for c in range(3)]
    cases = []
    for name, width, height in PICTURES:
        rgb = rule.picture(name, width, height)
        # Some blocks of one are constant, and have no features: rows and columns from and to.
        constant = [40, 160, 90, 260] if name == "broad" else None
        if constant:
            rgb[constant[0] : constant[1], constant[2] : constant[3]] = 90
        brisque, niqe, resized = brisque_features(rgb), niqe_features(rgb), resized_524(rgb)
        ilniqe = ilniqe_features(resized)
        first_pixels = [[int(v) for v in resized[0, :8, c]] for c in range(3)]
        of = {"brisque": score["brisque"](brisque), "niqe": score["niqe"](niqe), "ilniqe": score["ilniqe"](ilniqe)}
        print(name, of, "undefined blocks:", np.isnan(niqe).any(1).sum(), np.isnan(ilniqe).any(1).sum())
        cases.append(
            {
                "name": name, "width": width, "height": height, "constant": constant,
                "rgb_sum": sums(rgb), "gray_sum": float(luma(rgb).sum()), **{m: float(f"{s:.10g}") for m, s in of.items()},
                "ilniqe_blocks_with_nan": int(np.isnan(ilniqe).any(1).sum()),
                "ilniqe_inf_features": int((ilniqe == 10_000).sum()),
                "intermediate": {
                    "brisque": {"scale1": {"features": rounded(brisque[:18])}, "scale2": {"features": rounded(brisque[18:])}},
                    "niqe": {
                        "patches": len(niqe), "mu": rounded(np.nanmean(niqe, 0)), "first_block": rounded(niqe[0]),
                        "second_block_is_below_first": rounded(niqe[1]), "last_block": rounded(niqe[-1]),
                    },
                    "ilniqe": {
                        "resized": {"sum": sums(resized), "first_row_first_8_rgb": first_pixels},
                        "first_block_scale1": rounded(ilniqe[0, :234]), "first_block_scale2": rounded(ilniqe[0, 234:]),
                        "last_block_scale1": rounded(ilniqe[-1, :234]), "last_block_scale2": rounded(ilniqe[-1, 234:]),
                    },
                },
            }
        )  # fmt: skip
    rule.write_json(OUT / "expected.json", {"synthetic": cases})


if __name__ == "__main__":
    main()
