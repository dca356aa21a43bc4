# The CUDA backend, included where CUDA=1. The including Makefile sets BUILD, CC, ALL_CFLAGS, STD;
# it archives CUDA_OBJS and links CUDA_LIBS.

CUDA_HOME  ?= $(or $(patsubst %/bin/nvcc,%,$(shell command -v nvcc 2>/dev/null)),/usr/local/cuda)
NVCC       ?= $(or $(wildcard $(CUDA_HOME)/bin/nvcc),nvcc)
# Cards to compile for: A100, A10 and RTX 30, L4 and RTX 40, H100; later ones compile the PTX.
CUDA_ARCHS ?= 80 86 89 90
CUDA_PTX   ?= $(lastword $(CUDA_ARCHS))

CUDA_SRCS := $(wildcard kernels/cuda/*.cu kernels/cuda/*.c kernels/cuda/library/*.c)
CUDA_OBJS := $(addprefix $(BUILD)/obj/,$(addsuffix .o,$(basename $(CUDA_SRCS))))
# The driver and cublasLt, of 500 MB, are loaded when a GPU is used (library/cublasLt.c): -rpath is for
# that.
CUDA_LIBS := -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart_static -lstdc++ -ldl -lrt

NVCC_FLAGS = -std=c++17 -O3 -lineinfo -I. -Xcompiler -Wall,-Wextra \
	$(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
	-gencode arch=compute_$(CUDA_PTX),code=compute_$(CUDA_PTX) -MMD -MP

$(BUILD)/obj/kernels/cuda/%.o: kernels/cuda/%.cu $(BUILD)/flags | cuda-check
	@mkdir -p $(@D)
	@echo '  NVCC $<'
	$(Q)$(NVCC) $(NVCC_FLAGS) -c $< -o $@
$(BUILD)/obj/kernels/cuda/%.o: private CPPFLAGS += -isystem $(CUDA_HOME)/include

cuda-check:
	@command -v $(NVCC) >/dev/null || { echo "CUDA=1: nvcc is not in PATH nor in" \
	    "$(CUDA_HOME)/bin: install the CUDA toolkit, or say where it is with CUDA_HOME=" >&2; exit 1; }
	@[ -e $(CUDA_HOME)/include/cublasLt.h ] || { echo "CUDA=1: $(CUDA_HOME)/include has no" \
	    "cublasLt.h: install the toolkit's cuBLAS development files" >&2; exit 1; }
