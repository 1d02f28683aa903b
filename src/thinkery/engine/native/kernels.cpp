// The decoder with weights in the format that it computes in.

#include "decoder.h"

EXPORTED_WEIGHTS(float, float32)
EXPORTED_WEIGHTS(bfloat16, bfloat16)
EXPORTED(float, float, float32)
EXPORTED(bfloat16, bfloat16, bfloat16)
