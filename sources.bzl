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
        "-Xptxas=-warn-spills,-warn-lmem-usage",
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
    "bindings/emulated": [
        "dense_decode.cc",
        "device.cc",
        "testing/emulated_module.cc",
    ],
    "emulator_flags": [
        "-std=c++20",
        "-O3",
        "-ffp-contract=off",
        "-Wno-restrict",
    ],
    "emulator": [
        "machine/arithmetic.cc",
        "machine/async_stores.cc",
        "machine/atomics.cc",
        "machine/barriers.cc",
        "machine/bulk_copies.cc",
        "machine/control.cc",
        "machine/conversions.cc",
        "machine/copies.cc",
        "machine/cta.cc",
        "machine/debugger.cc",
        "machine/environment.cc",
        "machine/happens_before.cc",
        "machine/integer_arithmetic.cc",
        "machine/loads_and_stores.cc",
        "machine/loop_watch.cc",
        "machine/logic.cc",
        "machine/lowering.cc",
        "machine/matrix_moves.cc",
        "machine/matrix_operands.cc",
        "machine/mbarriers.cc",
        "machine/memory.cc",
        "machine/mma_sync.cc",
        "machine/moves.cc",
        "machine/numerics.cc",
        "machine/omission.cc",
        "machine/product_registers.cc",
        "machine/program.cc",
        "machine/races.cc",
        "machine/report.cc",
        "machine/run.cc",
        "machine/shadow_memory.cc",
        "machine/shared_tile.cc",
        "machine/tensor_copies.cc",
        "machine/tensor_core.cc",
        "machine/tensor_map.cc",
        "machine/video.cc",
        "machine/warp.cc",
        "machine/warp_wide.cc",
        "machine/wgmma.cc",
        "machine/wgmma_layout.cc",
        "ptx/body.cc",
        "ptx/lexer.cc",
        "ptx/names.cc",
        "ptx/parser.cc",
        "ptx/variables.cc",
        "runtime/allocations.cc",
        "runtime/device.cc",
        "runtime/driver.cc",
        "runtime/errors.cc",
        "runtime/fat_binary.cc",
        "runtime/function.cc",
        "runtime/launch.cc",
        "runtime/memory.cc",
        "runtime/registration.cc",
        "runtime/streams.cc",
    ],
}
