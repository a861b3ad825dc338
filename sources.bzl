"""What both builds compile, and what they compile it with.

BUILD files load this dictionary; CMakeLists.txt and build_backend/choices.py read the same
text. It is JSON but for commas before a closing bracket: double quotes, no comments, no
expressions. Paths are relative to the folder that the key names.

A new kernel instance is a new line under its architecture. An architecture is spelled as in
nvcc's compute_90a and sm_90a; a file is compiled for the one it stands under, and for no other.
"""

SOURCES = {
    "minimum_cuda": "12.9",
    "nvcc_flags": [
        "-O3",
        "-std=c++17",
        "-DNDEBUG",
        "-lineinfo",
        "--expt-relaxed-constexpr",
    ],
    "cuda": {
        "90a": [
            "sm90/dense_decode/launch_bf16.cu",
            "sm90/dense_decode/launch_fp16.cu",
        ],
        "100f": [],
    },
    "bindings": [
        "dense_decode.cc",
        "device.cc",
        "module.cc",
    ],
    "bindings/testing": [
        "host_dense_decode.cc",
    ],
}
