"""Makes dinov2_s14.json: what ONNX Runtime computes with the weights of `dinov2-s14`, at some points.

    python tests/reference/dinov2_s14.py vit_s_focus.onnx > tests/reference/dinov2_s14.json
    # onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6

The input is a formula on whole numbers (`pixels`), so that the test makes the same image without a decoder. Kept per
output: root mean square, largest magnitude, and the values of some tokens and channels.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
BLOCKS = (0, 5, 11)
CHANNELS = (0, 1, 100, 200, 383)


def pixels(side):
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    values = (x * 3 + y * 5 + c * 40 + (x // 24) * (y // 40) * 17) % 256
    normalised = (values.astype(np.float32) / 255 - MEAN) / STD
    return normalised.transpose(2, 0, 1)[None].copy()


def main():
    model = onnx.load(sys.argv[1])
    outputs = {f"block.{i}": f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in BLOCKS}
    # Without the decoder, and for any side: the export fixes 224 px in its declarations only.
    del model.graph.output[:]
    del model.graph.value_info[:]
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for name in outputs.values():
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    cases = []
    for side in (224, 392):
        found = session.run(list(outputs.values()), {session.get_inputs()[0].name: pixels(side)})
        for name, xs in zip(outputs, found):
            tokens = [0, 1, xs.shape[1] // 2, xs.shape[1] - 1]
            cases.append(
                {
                    "side_px": side,
                    "output": name,
                    "n_tokens": xs.shape[1],
                    "rms": float(np.sqrt(np.mean(np.square(xs, dtype=np.float64)))),
                    "max": float(np.abs(xs).max()),
                    "tokens": tokens,
                    "channels": list(CHANNELS),
                    "values": [[round(float(xs[0, t, c]), 6) for c in CHANNELS] for t in tokens],
                }
            )
    print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")


main()
