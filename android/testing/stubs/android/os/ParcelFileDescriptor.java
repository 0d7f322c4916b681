package android.os;

import java.io.Closeable;

public class ParcelFileDescriptor implements Closeable {
    public int getFd() {
        throw new UnsupportedOperationException();
    }

    public long getStatSize() {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() {
        throw new UnsupportedOperationException();
    }
}
