// Every kernel of the CUDA backend. `ptx.py` compiles this file to kernels.ptx, which the host ships; tests run the same
// sources on the CPU.

#include "numbers.cuh"
#include "rows.cuh"
#include "linear.cuh"
#include "attention.cuh"

#ifdef OSTRAKON_EMULATED
OSTRAKON_KERNEL(add)
OSTRAKON_KERNEL(gelu)
OSTRAKON_KERNEL(swiglu)
OSTRAKON_KERNEL(embedding)
OSTRAKON_KERNEL(rotary)
OSTRAKON_KERNEL(gather)
OSTRAKON_KERNEL(layer_norm)
OSTRAKON_KERNEL(rms_norm)
OSTRAKON_KERNEL(l2_normalise)
OSTRAKON_KERNEL(mean_pool)
OSTRAKON_KERNEL(code_u8)
OSTRAKON_KERNEL(code_u16)
OSTRAKON_KERNEL(linear_few_u8)
OSTRAKON_KERNEL(linear_few_u16)
OSTRAKON_KERNEL(linear_many_u8)
OSTRAKON_KERNEL(linear_many_u16)
OSTRAKON_KERNEL(code_heads)
OSTRAKON_KERNEL(attend_1)
OSTRAKON_KERNEL(attend_4)
#endif
