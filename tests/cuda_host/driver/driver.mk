# The stand-in for NVIDIA's driver (driver.h), in BUILD/driver. Programs linked with CUDA_HOST_RPATH
# find it where they lie: FFmpeg opens the libraries by name, and the loader asks the program's
# DT_RPATH first (DT_RUNPATH would hold for the program's own libraries alone).
CUDA_HOST_RPATH  := -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/driver'
CUDA_HOST_DRIVER := $(BUILD)/driver/libcuda.so.1 $(BUILD)/driver/libnvcuvid.so.1

$(BUILD)/obj/tests/cuda_host/driver/%.o: private CFLAGS += -fPIC
$(BUILD)/driver/libcuda.so.1: $(BUILD)/obj/tests/cuda_host/driver/cuda.o
$(BUILD)/driver/libnvcuvid.so.1: $(patsubst %,$(BUILD)/obj/tests/cuda_host/driver/%.o,nvcuvid h264) \
		$(BUILD)/driver/libcuda.so.1
$(BUILD)/driver/libnvcuvid.so.1: DRIVER_LIBS = $(shell pkg-config --libs libavcodec libavutil)
$(BUILD)/driver/%.so.1:
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) -shared $(SANFLAGS) -Wl,-soname,$(@F) -Wl,-rpath,'$$ORIGIN' -o $@ $^ $(DRIVER_LIBS)

CUDA_HOST_FRAMES := $(BUILD)/cuda_host_frames
$(CUDA_HOST_FRAMES): $(BUILD)/obj/tests/cuda_host/driver/frames.o $(LIB_MEDIA) $(LIB_PROTO) $(LIB_ENGINE) \
		| $(CUDA_HOST_DRIVER)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) $(CUDA_HOST_RPATH) -o $@ $^ $(MEDIA_LIBS) $(PROTO_LIBS) \
	    $(ENGINE_LIBS)
