package android.content;

import android.net.Uri;
import android.os.ParcelFileDescriptor;
import java.io.FileNotFoundException;

public abstract class ContentResolver {
    public abstract ParcelFileDescriptor openFileDescriptor(Uri uri, String mode) throws FileNotFoundException;
}
