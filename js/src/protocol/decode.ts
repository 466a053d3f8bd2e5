/** Binary traits and buffers into typed arrays. */

type Binary = DataView | ArrayBuffer | Uint8Array | null | undefined;

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** The bytes of whatever a host hands over, without a copy. */
export function bytes(data: Binary): Uint8Array {
  if (!data) return new Uint8Array();
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Little-endian float32; copied only where a typed array cannot lie on the bytes as they are. */
export function floats(data: Binary): Float32Array {
  const raw = bytes(data);
  const length = Math.floor(raw.byteLength / 4);
  if (littleEndian && raw.byteOffset % 4 === 0) return new Float32Array(raw.buffer, raw.byteOffset, length);
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  return Float32Array.from({ length }, (_, i) => view.getFloat32(4 * i, true));
}

/** Codes 0..254 of a thumbnail are c/254, and this one is NaN. */
export const NAN_CODE = 255;

export function thumbValue(code: number): number {
  return code === NAN_CODE ? Number.NaN : code / 254;
}
