# nnU-Net with SA-LSTM, for the CPU or for a GPU:
#     docker build -t nnunetv2-salstm .
#     docker build -t nnunetv2-salstm --build-arg TORCH=cu126 .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD/data:/data" nnunetv2-salstm \
#         nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerSALSTM_A
FROM python:3.12-slim

# Of PyTorch's indices: cpu, cu126, ...
ARG TORCH=cpu

# torch.compile needs a C compiler.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ && \
    rm -rf /var/lib/apt/lists/*

# Owned by root, so that nothing is installed or changed when the container runs.
RUN python -m venv /opt/nnunet
ENV PATH=/opt/nnunet/bin:$PATH
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "torch>=2.6,!=2.9.*" torchvision --index-url "https://download.pytorch.org/whl/$TORCH"
COPY . /source
RUN pip install --no-cache-dir "/source[compare]" && \
    rm -rf /source

RUN useradd --create-home --uid 1000 nnunet && \
    mkdir -p /data/nnUNet_raw /data/nnUNet_preprocessed /data/nnUNet_results && \
    chown -R nnunet /data
ENV nnUNet_raw=/data/nnUNet_raw \
    nnUNet_preprocessed=/data/nnUNet_preprocessed \
    nnUNet_results=/data/nnUNet_results
# nnunet, as a number, by which a cluster can tell that it is not root.
USER 1000
WORKDIR /data
CMD ["nnUNetv2_salstm", "doctor"]
